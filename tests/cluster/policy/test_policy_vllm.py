"""A real deployment: Ray Serve LLM and vLLM on the CPU, with a small model."""

import asyncio
import json
from pathlib import Path

import psutil
import pytest
import verifiers as vf
from tokenizers import Tokenizer
from verifiers.legacy.types import Tool

from tests.helpers.asking import ask, tokens
from tests.helpers.drivers import cluster_processes, drive, kumite_policy
from workers.settings import PolicyEndpoint

pytestmark = [pytest.mark.vllm]

TOOL = Tool(
    name="send_money",
    description="Send money.",
    parameters={
        "type": "object",
        "properties": {"recipient": {"type": "string"}, "amount": {"type": "number"}},
        "required": ["recipient", "amount"],
    },
)


async def test_a_required_tool_is_called_and_the_tokens_come_with_it(vllm_endpoint: PolicyEndpoint):
    answer = await ask(vllm_endpoint, "Pay Bob 5.", [TOOL], tool_choice="required", max_tokens=200)
    assert answer.message.tool_calls, answer.message
    assert answer.message.tool_calls[0].name == "send_money"
    assert answer.message.finish_reason == "tool_calls"
    given = tokens(answer)
    assert answer.usage is not None
    assert len(given.prompt_ids) == answer.usage.prompt_tokens
    assert len(given.completion_ids) == answer.usage.completion_tokens == len(given.completion_logprobs)
    assert all(logprob <= 0 for logprob in given.completion_logprobs)
    assert vllm_endpoint.version == 0


async def test_an_answer_says_how_much_of_its_prompt_was_cached(vllm_endpoint: PolicyEndpoint):
    question = "Which of these is a fruit: " + ", ".join(["an apple", "a stone", "a cloud"] * 20)
    first, second = [await ask(vllm_endpoint, question, max_tokens=1) for _ in range(2)]
    assert first.usage is not None and second.usage is not None
    before, after = (getattr(usage, "cached_tokens", None) for usage in (first.usage, second.usage))
    assert before is not None and after is not None and before < after <= second.usage.prompt_tokens


async def test_the_prompt_offers_the_tools_and_asks_for_hermes_calls(
    vllm_endpoint: PolicyEndpoint, vllm_model: Path
):
    answer = await ask(vllm_endpoint, "Pay Bob 5.", [TOOL], max_tokens=4)
    tokenizer = Tokenizer.from_file(str(vllm_model / "tokenizer.json"))
    prompt = tokenizer.decode(tokens(answer).prompt_ids, skip_special_tokens=False)
    assert prompt.startswith("<|im_start|>system\n")
    assert '<tools>\n{"type": "function", "function": {"name": "send_money"' in prompt
    assert prompt.endswith("<|im_start|>user\nPay Bob 5.<|im_end|>\n<|im_start|>assistant\n")


async def test_logprobs_are_of_the_distribution_that_was_sampled_from(vllm_endpoint: PolicyEndpoint):
    sharp = await ask(vllm_endpoint, "Count to ten.", temperature=0.01, max_tokens=16)
    assert min(tokens(sharp).completion_logprobs) > -0.7, (
        "at this temperature the likeliest token is all but sure"
    )


async def test_requests_at_once_share_the_engine(vllm_endpoint: PolicyEndpoint):
    asked = [
        ask(vllm_endpoint, f"Say {i}.", max_tokens=8, extra_body={"ignore_eos": True}) for i in range(16)
    ]
    answers = await asyncio.gather(*asked)
    assert all(len(tokens(answer).completion_ids) == 8 for answer in answers)


async def test_a_prompt_over_the_context_is_told_from_other_errors(vllm_endpoint: PolicyEndpoint):
    with pytest.raises(vf.OverlongPromptError):
        await ask(vllm_endpoint, "word " * 9000)


def test_the_next_driver_finds_the_kept_deployment(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path
):
    asked = {"model": str(vllm_model), "adapters": {}, "sampling": {"temperature": 0.5}}
    told = drive(vllm_cache, "policy", json.dumps(asked), timeout=600)
    assert told["outcome"] == f"{vllm_model.name} on the cpu, kept from an earlier run"
    assert told["endpoint"]["base_url"] == vllm_endpoint.base_url
    assert told["stages"] == []
    assert told["imported"] == [], "a driver has no use for torch or vLLM"


def test_the_kept_policy_is_not_brought_up_twice_and_tells_how_it_is(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path, tmp_path: Path
):
    policy = {"kind": "vllm", "model": str(vllm_model), "adapters": {}}
    config = {"environment": {"id": "shell"}, "policy": policy}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    said = kumite_policy(vllm_cache, "up", tmp_path / "run.yaml")
    assert f"{vllm_model.name} on the cpu, kept from an earlier run" in said
    status = json.loads(kumite_policy(vllm_cache, "status", "--json"))
    assert (status["state"], status["in_use"]) == ("ready", False)
    assert status["policy"]["base_url"] == vllm_endpoint.base_url
    said = kumite_policy(vllm_cache, "status")
    assert f"version {status['version']}: ready, idle, up" in said
    assert any("VLLM::EngineCore" in process.command for process in cluster_processes(vllm_cache))


def test_its_sockets_are_in_a_folder_of_its_own(vllm_endpoint: PolicyEndpoint, vllm_cache: Path):
    [engine] = [each for each in cluster_processes(vllm_cache) if "VLLM::EngineCore" in each.command]
    folder = Path(psutil.Process(engine.pid).environ()["TMPDIR"])
    assert folder.name.startswith(f"kumite-vllm-{engine.session}-")
    assert any(path.is_socket() for path in folder.iterdir())


def test_a_deployment_that_cannot_start_says_why_and_leaves_the_kept_one_alone(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path
):
    asked = {"model": str(vllm_model), "cpu_kv_cache_gb": 4000}
    told = drive(vllm_cache, "policy", json.dumps(asked), timeout=500)
    assert told["error"] == "PolicyUnavailable"
    assert "less than requested memory for kv (4000.0 GiB)" in told["said"]
    answer = asyncio.run(ask(vllm_endpoint, "Are you there?", max_tokens=2))
    assert answer.message.finish_reason == "length"


def test_an_engine_argument_that_vllm_does_not_know_is_named(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path
):
    asked = {"model": str(vllm_model), "engine": {"no_such_argument": 1}}
    told = drive(vllm_cache, "policy", json.dumps(asked), timeout=600)
    assert told["error"] == "PolicyUnavailable"
    assert "no_such_argument" in told["said"]
