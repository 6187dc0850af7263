"""What `kumite verify` finds in runs of a real deployment, and what transformers says of the same ids."""

import copy
import importlib
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from cluster.config.file import load_config
from cluster.dataset.episodes import iterate_records
from cluster.policy.models import packaged_model
from cluster.policy.vllm.cpu_precision import cpu_precision
from cluster.verify.checks import Verification, verify
from cluster.verify.rescore import Scorer
from tests.helpers.asking import read_served_version
from tests.helpers.verified_runs import play_run
from workers.policy.chat_messages import prepare_messages
from workers.policy.content_format import ContentFormat, detect_content_format
from workers.records import StepRecord
from workers.settings import PolicyEndpoint, SamplingSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500), pytest.mark.usefixtures("model_weights")]

FREELY: dict[str, Any] = {"max_tokens": 40}
Reference = Callable[[StepRecord], list[float]]


@pytest.fixture(autouse=True)
def finds_the_kept_policy(vllm_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))


@pytest.fixture(scope="module")
def transformers_scores(vllm_model: Path) -> Reference:
    """Log-probabilities of a step's sampled ids by transformers, in the precision of the deployment."""
    import torch
    from transformers import AutoModelForCausalLM

    loading: Any = AutoModelForCausalLM
    model: Any = loading.from_pretrained(str(vllm_model), dtype=getattr(torch, cpu_precision())).eval()

    def scores(step: StepRecord) -> list[float]:
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *sampled]])).logits[0, len(prompt) - 1 : -1]
        logprobs = logits.float().log_softmax(-1)
        return logprobs.gather(1, torch.tensor(sampled)[:, None])[:, 0].tolist()

    return scores


def play(folder: Path, endpoint: PolicyEndpoint, model: Path, sampling: dict[str, Any], tokens: str) -> Path:
    source = folder.with_suffix(".yaml")
    source.write_text(
        yaml.safe_dump(
            {
                "environment": {"id": "tests.helpers.looking_environment"},
                "policy": {"kind": "vllm", "model": str(model), "tokens": tokens, "sampling": sampling},
                "limit": 8,
            }
        )
    )
    settings = {
        "tokens": tokens,
        "sampling": SamplingSettings(**sampling),
        "version": read_served_version(),  # other tests have given it new weights
    }
    play_run(folder, load_config(source), endpoint.model_copy(update=settings))
    return folder


def complaints(found: Verification) -> dict[str, list[str]]:
    return {report.rule: report.examples for report in found.rules if report.violations}


def scored(run: Path, endpoint: PolicyEndpoint, sampling: dict[str, Any]) -> Verification:
    assert endpoint.base_url is not None
    scorer = Scorer(endpoint.base_url, endpoint.model, SamplingSettings(**sampling))
    return verify(run, rescore=scorer)


def test_messages_and_content_formats_are_those_of_vllm():
    """Needs no deployment, but vLLM itself."""
    formats: Any = importlib.import_module("vllm.renderers.hf")
    protocol: Any = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
    chat_utils: Any = importlib.import_module("vllm.entrypoints.chat_utils")
    templates = Path(formats.__file__).parents[1] / "transformers_utils" / "chat_templates"
    for path in [*templates.glob("*.jinja"), packaged_model.TEMPLATE]:
        text = path.read_text()
        assert detect_content_format(text) == formats._detect_content_format(text, default="string"), path
    config = SimpleNamespace(multimodal_config=None, enable_prompt_embeds=False)
    for content, arguments, form in product(
        (None, "", "Wait.", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        ('{"b": 1, "a": [1]}', "", "[]", "no JSON"),
        ("string", "openai"),
    ):
        call = {"type": "function", "id": "c1", "function": {"name": "pay", "arguments": arguments}}
        messages = [
            {"role": "user", "content": content or ""},
            {"role": "assistant", "content": content, "tool_calls": [call], "reasoning_content": "hm"},
            {"role": "tool", "content": content or "", "tool_call_id": "c1"},
        ]
        request = protocol.ChatCompletionRequest(model="m", messages=copy.deepcopy(messages))
        theirs = chat_utils.parse_chat_messages(request.messages, config, form)[0]
        assert json.dumps(prepare_messages(messages, cast(ContentFormat, form))) == json.dumps(theirs)


@pytest.mark.parametrize("tokens", ["per_turn", "exact"])
def test_a_run_is_right_and_its_log_probabilities_are_those_of_transformers(
    vllm_endpoint: PolicyEndpoint,
    vllm_model: Path,
    tmp_path: Path,
    transformers_scores: Reference,
    tokens: str,
):
    run = play(tmp_path / tokens, vllm_endpoint, vllm_model, FREELY, tokens)
    found = scored(run, vllm_endpoint, FREELY)
    assert complaints(found) == {}
    steps = [step for episode in iterate_records(run) for step in episode.steps]
    apart = [
        abs(mine - other)
        for step in steps
        for mine, other in zip(step.completion_logprobs or [], transformers_scores(step), strict=True)
    ]
    mean = sum(apart) / len(apart)
    print(f"{tokens}: {len(steps)} steps, {len(apart)} tokens")
    print(f"{tokens}: beside transformers: {mean:.4f} nats in the mean, {max(apart):.3f} at most")
    print(f"{tokens}: scored again by vLLM: {found.mean_difference:.4f}, {found.largest_difference:.3f}")
    assert len(apart) > 50
    assert mean < 0.05


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.7}, {"temperature": 1.3, "top_p": 0.9, "extra_body": {"top_k": 40}}]
)
def test_log_probabilities_are_scored_again_under_the_runs_sampling(
    vllm_endpoint: PolicyEndpoint, vllm_model: Path, tmp_path: Path, sampling: dict[str, Any]
):
    sampling = {"max_tokens": 12, **sampling}
    run = play(tmp_path / "run", vllm_endpoint, vllm_model, sampling, "per_turn")
    found = scored(run, vllm_endpoint, sampling)
    assert complaints(found) == {}
    (report,) = (report for report in found.rules if report.rule == "logprobs")
    assert report.checked == found.steps and not report.not_checked
    print(f"{sampling}: {found.mean_difference:.4f} nats in the mean, {found.largest_difference:.3f} at most")


def test_what_was_sampled_under_a_grammar_is_right_and_told_not_to_be_scored(
    vllm_endpoint: PolicyEndpoint, vllm_model: Path, tmp_path: Path
):
    sampling = {"max_tokens": 32, "tool_choice": "required"}
    run = play(tmp_path / "run", vllm_endpoint, vllm_model, sampling, "per_turn")
    found = scored(run, vllm_endpoint, sampling)
    assert complaints(found) == {}
    (report,) = (report for report in found.rules if report.rule == "logprobs")
    assert not report.checked and sum(report.not_checked.values()) == found.steps
    assert all("grammar" in reason for reason in report.not_checked)
