"""Scores a step's sampled tokens again, by the deployment that sampled them."""

import math
import urllib.error
from http.client import HTTPException
from typing import Any, cast

from cluster.errors import PolicyUnavailable
from cluster.policy.api_requests import list_models, request_json
from workers.policy.versions import model_name, parse_version
from workers.records import StepRecord
from workers.settings import SamplingSettings

_TIMEOUT = 300.0
"""Seconds that one request may take."""
_AT_ONCE = 16
"""Tokens that are scored with one request where each takes a prompt of its own."""
_PASSED_ON = ("top_k", "min_p", "logit_bias", "allowed_token_ids", "bad_words")
"""Arguments that narrow or shift what one token is drawn from, whatever was drawn before."""
_NO_MATTER = (
    "add_generation_prompt",
    "add_special_tokens",
    "cache_salt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "n",
    "parallel_tool_calls",
    "priority",
    "reasoning_effort",
    "return_token_ids",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "top_logprobs",
    "user",
)
"""Arguments that change no token's probability, given the ids before it."""


class Scorer:
    """Asks `/v1/completions` for the log-probabilities of what was sampled, as it was sampled.

    What was sampled at temperature 1 from all tokens is scored as the end of one prompt, which vLLM scores
    before temperature, `top_p` and the like. Where these changed the probabilities, each token is scored by a
    request of its own for one token after the ids before it, under the same settings.

    Args:
        base_url: Root of the deployment's API.
        model: The model's name.
        sampling: How the run sampled.

    Raises:
        PolicyUnavailable: It does not answer, or has no such model.
    """

    def __init__(self, base_url: str, model: str, sampling: SamplingSettings) -> None:
        self._base_url = base_url
        self._model = model
        self._sampling = sampling
        try:
            models = list_models(base_url)
        except (OSError, HTTPException, ValueError) as error:
            raise PolicyUnavailable(f"--policy {base_url}: no list of models: {error}") from error
        if models and model not in models:
            raise PolicyUnavailable(
                f"--policy {base_url}: the run's model is {model!r}, and it has {', '.join(models)}"
            )

    def under(self, sampling: SamplingSettings) -> "Scorer":
        """The same scorer for what was sampled otherwise."""
        other = object.__new__(Scorer)
        other._base_url, other._model, other._sampling = self._base_url, self._model, sampling
        return other

    def __call__(self, step: StepRecord) -> list[float] | str:
        """The log-probabilities of the sampled ids, or why they are not to be had.

        Raises:
            PolicyUnavailable: The policy does not answer.
        """
        barrier = _cannot_be_undone(self._sampling)
        if barrier is not None:
            return barrier
        changes = _what_changes(self._sampling)
        return self._token_by_token(step, changes) if changes else self._as_prompt(step)

    def _as_prompt(self, step: StepRecord) -> list[float] | str:
        """All sampled ids with one request, as the end of a prompt."""
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        answer = self._ask(step, {"prompt": [*prompt, *sampled], "prompt_logprobs": 0})
        if isinstance(answer, str):
            return answer
        given = answer["choices"][0].get("prompt_logprobs")
        if not given:
            return "the policy gives no log-probabilities of a prompt"
        return [
            float(entry[str(token)]["logprob"]) if entry and str(token) in entry else -math.inf
            for token, entry in zip(sampled, given[len(prompt) :], strict=True)
        ]

    def _token_by_token(self, step: StepRecord, changes: dict[str, Any]) -> list[float] | str:
        """Each sampled id as the one token that follows the ids before it."""
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        scored: list[float] = []
        for start in range(0, len(sampled), _AT_ONCE):
            part = sampled[start : start + _AT_ONCE]
            body = {
                **changes,
                "prompt": [[*prompt, *sampled[: start + place]] for place in range(len(part))],
                "logprobs": 1,
                "logprob_token_ids": sorted(set(part)),
                "return_tokens_as_token_ids": True,
                "ignore_eos": True,
            }
            answer = self._ask(step, body)
            if isinstance(answer, str):
                return answer
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            for token, choice in zip(part, choices, strict=True):
                logprobs = cast("dict[str, Any]", choice.get("logprobs") or {})
                given = cast("list[dict[str, float]]", logprobs.get("top_logprobs") or [{}])
                value = given[0].get(f"token_id:{token}")
                if value is None:
                    named = ", ".join(f"{name} {value}" for name, value in changes.items())
                    return f"sampled with {named}, and the policy does not score single tokens under it"
                scored.append(float(value))
        return scored

    def _ask(self, step: StepRecord, body: dict[str, Any]) -> dict[str, Any] | str:
        """An answer of the version that sampled a step, or why there is none.

        Raises:
            PolicyUnavailable: The policy does not answer.
        """
        whole = {"model": model_name(self._model, step.policy_version), "max_tokens": 1, **body}
        try:
            answer: dict[str, Any] = request_json(self._base_url, "completions", None, _TIMEOUT, whole)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode(errors="replace")
            if error.code in (404, 410):
                return f"the policy has no version {step.policy_version} any more"
            if error.code in (400, 422):
                return f"the policy refuses to score it: {said[:200]}"
            raise PolicyUnavailable(f"the policy at {self._base_url} does not score: {said}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise PolicyUnavailable(f"the policy at {self._base_url} does not score: {error}") from error
        acted = parse_version(answer.get("model"), self._model)
        if acted is not None and acted != step.policy_version:
            return f"the policy has no version {step.policy_version} any more; it is at {acted}"
        return answer


def _cannot_be_undone(sampling: SamplingSettings) -> str | None:
    """What the probabilities depended on that a request for one token cannot be given."""
    if sampling.tool_choice == "required":
        return "sampled under a grammar (tool_choice `required`), which begins anew with each request"
    known = (*_PASSED_ON, *_NO_MATTER)
    others = [name for name, value in sampling.extra_body.items() if value is not None and name not in known]
    if others:
        return f"sampled with {', '.join(others)}, which depends on what was sampled before, or is not known"
    return None


def _what_changes(sampling: SamplingSettings) -> dict[str, Any]:
    """What made the probabilities sampled with other than those of the model; empty where nothing did."""
    changes: dict[str, Any] = {}
    if sampling.top_p not in (None, 1.0):
        changes["top_p"] = sampling.top_p
    changes |= {
        name: value
        for name, value in sampling.extra_body.items()
        if name in _PASSED_ON and value not in (None, -1, 0, {}, [])
    }
    if sampling.temperature != 1.0 or changes:
        changes["temperature"] = sampling.temperature
    return changes
