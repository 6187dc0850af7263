import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import verifiers as vf
from verifiers.legacy.types import Response, Tool, UserMessage

import workers.policy.endpoint
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from workers.errors import PolicyError
from workers.policy.chat_client import ChatPolicyClient
from workers.policy.endpoint import sampling_args
from workers.settings import PolicyEndpoint, SamplingSettings

TOOL = Tool(name="send_money", description="Send money.", parameters={"type": "object", "properties": {}})


def endpoint(base_url: str | None, **settings: Any) -> PolicyEndpoint:
    return PolicyEndpoint(kind="openai", model="mock", base_url=base_url, **settings)


@asynccontextmanager
async def connected(settings: PolicyEndpoint) -> AsyncIterator[ChatPolicyClient]:
    client = ChatPolicyClient(settings)
    try:
        yield client
    finally:
        await client.close()


async def ask(settings: PolicyEndpoint, tools: list[Tool] | None = None, seed: int | None = None) -> Response:
    async with connected(settings) as client:
        prompt = [UserMessage(content="pay the rent")]
        return await client.get_response(prompt, settings.model, sampling_args(settings, seed), tools)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.setattr("workers.policy.outage._MIN_WAIT", 0.01)


async def test_a_tool_call_comes_back_with_its_tokens():
    reply = Reply(content=None, tool_calls=[("send_money", {"amount": 5})])
    with MockPolicy(reply) as policy:
        answer = await ask(endpoint(policy.base_url, token_ids=True), [TOOL])
    message = answer.message
    assert message.tool_calls is not None
    assert (message.tool_calls[0].name, message.tool_calls[0].arguments) == ("send_money", '{"amount": 5}')
    assert message.finish_reason == "tool_calls"
    assert message.tokens is not None
    assert (message.tokens.prompt_ids, message.tokens.completion_ids) == ([1, 2, 3], [7, 8])
    assert message.tokens.completion_logprobs == [-0.5, -0.25]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 2)


async def test_tokens_are_asked_for_only_where_the_endpoint_gives_them():
    with MockPolicy() as policy:
        answer = await ask(endpoint(policy.base_url))
        await ask(endpoint(policy.base_url, token_ids=True))
    assert answer.message.tokens is None
    assert "logprobs" not in policy.requests[0] and "return_token_ids" not in policy.requests[0]
    assert policy.requests[1]["logprobs"] is True and policy.requests[1]["return_token_ids"] is True


async def test_the_request_carries_the_sampling_settings():
    sampling = SamplingSettings(
        temperature=0.7, top_p=0.9, max_tokens=9, stop=["\n"], tool_choice="required", extra_body={"top_k": 4}
    )
    with MockPolicy() as policy:
        await ask(endpoint(policy.base_url, sampling=sampling), [TOOL], seed=11)
        await ask(endpoint(policy.base_url, sampling=sampling))
    first, second = policy.requests
    assert (first["temperature"], first["top_p"], first["top_k"], first["seed"]) == (0.7, 0.9, 4, 11)
    assert (first["max_completion_tokens"], first["stop"]) == (9, ["\n"])
    assert first["tool_choice"] == "required"
    assert "tool_choice" not in second, "there is no tool to choose"
    assert "seed" not in second


@pytest.mark.parametrize("content", ["", None])
async def test_an_answer_that_says_nothing_is_an_action(content: str | None):
    with MockPolicy(Reply(content=content, token_ids=[2], logprobs=[-0.1])) as policy:
        answer = await ask(endpoint(policy.base_url, token_ids=True))
    assert answer.message.content == ""
    assert answer.message.tool_calls is None
    assert answer.message.tokens is not None and answer.message.tokens.completion_ids == [2]


async def test_an_answer_cut_off_by_the_token_limit_says_so():
    with MockPolicy(Reply(finish_reason="length")) as policy:
        answer = await ask(endpoint(policy.base_url))
    assert answer.message.finish_reason == "length" and answer.message.is_truncated


@pytest.mark.parametrize("choices", [0, 2])
async def test_an_answer_without_exactly_one_choice_is_an_error(choices: int):
    with MockPolicy(Reply(choices=choices)) as policy, pytest.raises(vf.ModelError):
        await ask(endpoint(policy.base_url))


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=503), Fault(status=429), Fault("disconnect")]
)
async def test_a_passing_failure_is_retried(fault: Fault):
    with MockPolicy(fault, fault, Reply(content="third time")) as policy:
        answer = await ask(endpoint(policy.base_url))
    assert answer.message.content == "third time"
    assert len(policy.requests) == 3


async def test_a_lasting_failure_is_a_policy_error_with_its_reason():
    with MockPolicy(default=Fault(status=500, message="engine died")) as policy:
        with pytest.raises(PolicyError, match=r"answered 500.*engine died"):
            await ask(endpoint(policy.base_url))
        assert len(policy.requests) == 1 + workers.policy.endpoint.RETRIES


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(status=500, message="EngineDeadError"), Fault("disconnect")]
)
async def test_a_policy_that_is_down_for_long_costs_a_wait(fault: Fault, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.policy.endpoint.RETRIES", 0)
    monkeypatch.setattr("workers.policy.outage._MIN_WAIT", 0.01)
    with MockPolicy(*[fault] * 5, Reply(content="back again")) as policy:
        answer = await ask(endpoint(policy.base_url))
    assert answer.message.content == "back again"
    assert len(policy.requests) == 6


async def test_a_refused_request_is_not_retried():
    with MockPolicy(Fault(status=400, message="no such sampling")) as policy:
        with pytest.raises(PolicyError, match=r"answered 400.*no such sampling"):
            await ask(endpoint(policy.base_url))
        assert len(policy.requests) == 1


async def test_a_prompt_over_the_context_is_verifiers_own_error():
    message = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
    with MockPolicy(Fault(status=400, message=message)) as policy, pytest.raises(vf.OverlongPromptError):
        await ask(endpoint(policy.base_url))


@pytest.mark.slow
async def test_a_policy_that_hangs_is_given_up_at_the_time_limit():
    with MockPolicy(Fault("hang")) as policy:
        with pytest.raises(PolicyError, match=r"policy.request_timeout, 2.0 s"):
            await ask(endpoint(policy.base_url, request_timeout=2))
        assert len(policy.requests) == 1


@pytest.mark.slow
async def test_a_policy_that_keeps_failing_is_given_up_at_the_time_limit():
    with MockPolicy(default=Fault(status=500), latency=1.0) as policy:
        with pytest.raises(PolicyError, match=r"policy.request_timeout, 3.0 s"):
            await ask(endpoint(policy.base_url, request_timeout=3))
        assert 1 < len(policy.requests) < workers.policy.endpoint.RETRIES


async def test_an_answer_that_is_no_chat_completion_is_a_policy_error():
    with MockPolicy(Fault("garbage")) as policy, pytest.raises(PolicyError, match="no chat completion"):
        await ask(endpoint(policy.base_url))


@pytest.mark.slow
async def test_a_policy_that_is_gone_is_a_policy_error():
    with MockPolicy() as policy:
        url = policy.base_url
    with pytest.raises(PolicyError, match="cannot be reached"):
        await ask(endpoint(url, request_timeout=2))


@pytest.mark.slow
async def test_hundreds_of_requests_are_in_flight_at_once():
    with MockPolicy() as policy:
        policy.lets_through = 0
        settings = endpoint(policy.base_url)
        async with connected(settings) as client:
            args = sampling_args(settings, None)
            one = [UserMessage(content="hello")]
            asked = asyncio.gather(*(client.get_response(one, "mock", args) for _ in range(300)))
            while policy.peak < 300:
                await asyncio.sleep(0.02)
            policy.lets_through = None
            await asked


async def test_a_proxy_in_the_environment_is_not_asked_for_this_machines_ports(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with MockPolicy() as policy:
        answer = await ask(endpoint(policy.base_url))
    assert answer.message.content == "ok"


async def test_a_proxy_in_the_environment_is_asked_for_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with MockPolicy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        answer = await ask(endpoint("http://policy.invalid/v1"))
    assert answer.message.content == "ok" and len(proxy.requests) == 1


async def test_the_key_goes_with_each_request():
    with MockPolicy() as policy:
        policy.api_key = "secret"
        assert (await ask(endpoint(policy.base_url, api_key="secret"))).message.content == "ok"
        with pytest.raises(PolicyError, match="answered 401"):
            await ask(endpoint(policy.base_url, api_key="other"))


def test_an_endpoint_without_a_url_is_named():
    with pytest.raises(PolicyError, match="base_url"):
        ChatPolicyClient(endpoint(None))
