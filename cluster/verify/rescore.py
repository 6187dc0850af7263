"""Scores a step's sampled tokens again, by the deployment that sampled them."""

import math
import urllib.error
from http.client import HTTPException
from typing import Any

from cluster.errors import PolicyUnavailable
from cluster.policy.endpoint import ask, list_models
from workers.records import StepRecord
from workers.settings import SamplingSettings
from workers.versions import model_name, version_of

_TIMEOUT = 300.0
"""Seconds that one prompt may take to be scored."""


class Scorer:
    """Asks `/v1/completions` for the log-probabilities of a prompt that ends with what was sampled.

    Args:
        base_url: Root of the deployment's API.
        model: The model's name.
        sampling: How the run sampled. vLLM scores prompts before temperature and the like, so what was
            sampled with any of these is not comparable.

    Raises:
        PolicyUnavailable: It does not answer, or has no such model.
    """

    def __init__(self, base_url: str, model: str, sampling: SamplingSettings) -> None:
        self._base_url = base_url
        self._model = model
        self._changed = _what_changes(sampling)
        try:
            models = list_models(base_url)
        except (OSError, HTTPException, ValueError) as error:
            raise PolicyUnavailable(f"--policy {base_url}: nothing that lists its models: {error}") from error
        if models and model not in models:
            raise PolicyUnavailable(
                f"--policy {base_url}: the run's model is {model!r}, and it has {', '.join(models)}"
            )

    def __call__(self, step: StepRecord) -> list[float] | str:
        """The log-probabilities of the sampled ids, or why they are not to be had."""
        if self._changed is not None:
            return f"sampled with {self._changed}, which scoring leaves out"
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        body: dict[str, Any] = {
            "model": model_name(self._model, step.policy_version),
            "prompt": [*prompt, *sampled],
            "max_tokens": 1,
            "prompt_logprobs": 0,
        }
        try:
            answer = ask(self._base_url, "completions", None, _TIMEOUT, body)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode(errors="replace")
            if error.code in (404, 410):
                return f"the policy has no version {step.policy_version} any more"
            if error.code == 400:
                return f"the policy refuses to score it: {said}"
            raise PolicyUnavailable(f"the policy at {self._base_url} does not score: {said}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise PolicyUnavailable(f"the policy at {self._base_url} does not score: {error}") from error
        acted = version_of(answer.get("model"), self._model)
        if acted is not None and acted != step.policy_version:
            return f"the policy has no version {step.policy_version} any more; it is at {acted}"
        given = answer["choices"][0].get("prompt_logprobs")
        if not given:
            return "the policy gives no log-probabilities of a prompt"
        return [
            float(entry[str(token)]["logprob"]) if entry and str(token) in entry else -math.inf
            for token, entry in zip(sampled, given[len(prompt) :], strict=True)
        ]


def _what_changes(sampling: SamplingSettings) -> str | None:
    """What makes the probabilities sampled with other than those of the model."""
    if sampling.temperature != 1.0:
        return f"temperature {sampling.temperature:g}"
    if sampling.top_p not in (None, 1.0):
        return f"top_p {sampling.top_p:g}"
    if sampling.tool_choice == "required":
        return "tool_choice `required`"
    return f"{', '.join(sampling.extra_body)}" if sampling.extra_body else None
