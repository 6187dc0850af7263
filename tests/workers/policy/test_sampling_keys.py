"""What is claimed of every sampling key, seen in the request that a policy receives."""

from pathlib import Path
from typing import Any

import pytest
from verifiers.legacy.types import Tool, UserMessage

from cluster.config import EndpointPolicy, Policy, VllmPolicy
from cluster.errors import ConfigError
from cluster.policy.sampling import check_environment_sampling, check_sampling_keys
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.errors import PolicyError
from workers.policy.chat_template import ChatTemplate
from workers.policy.classic_client import make_client
from workers.policy.endpoint import sampling_args
from workers.policy.sampling_keys import SAMPLING_KEYS, Route, SamplingKey
from workers.settings import PolicyEndpoint, SamplingSettings

KEYS = {key.name: key for key in SAMPLING_KEYS}
NAMED = set(SamplingSettings.model_fields) - {"extra_body"}
TEMPLATE = (
    "{{ [tools, enable_thinking, reasoning_effort, documents] }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BESIDE = ("cache_salt", "priority")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return ChatTemplate(str(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEMPLATE)))


def settings(key: SamplingKey) -> SamplingSettings:
    if key.name in NAMED and key.name != "tool_choice":
        return SamplingSettings.model_validate({key.name: key.example})
    return SamplingSettings(extra_body={key.name: key.example})


def policy_of(route: Route, sampling: SamplingSettings) -> Policy:
    tokens: Any = "exact" if route == "exact" else "per_turn"
    if route == "endpoint":
        return EndpointPolicy(kind="endpoint", base_url="http://127.0.0.1:1/v1", model="m", sampling=sampling)
    return VllmPolicy(kind="vllm", tokens=tokens, sampling=sampling)


async def request_of(
    policy: MockPolicy, template: ChatTemplate, route: Route, sampling: SamplingSettings, own: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    endpoint = PolicyEndpoint(
        kind="openai",
        model="mock",
        base_url=policy.base_url,
        token_ids=True,
        tokens="exact" if route == "exact" else "per_turn",
        tokenizer=template.model,
        paced=route == "endpoint",
        sampling=sampling,
    )
    client = make_client(endpoint)
    tools = [Tool(name="add", description="Add.", parameters={"type": "object", "properties": {}})]
    ours = sampling_args(endpoint, None)
    extra = {**(own.get("extra_body") or {}), **(ours.get("extra_body") or {})}
    arguments: Any = {**own, **ours, "extra_body": extra}
    try:
        answer = await client.get_response([UserMessage(content="1 + 2?")], "mock", arguments, tools)
    finally:
        await client.close()
    return policy.requests[-1], answer


def replies(template: ChatTemplate, text: str = "3") -> Reply:
    ids = template.encode(text + END)
    return Reply(text, token_ids=ids, logprobs=[-0.5] * len(ids))


def sent(request: dict[str, Any], key: SamplingKey) -> Any:
    params = request.get("sampling_params", request)
    name = key.sent_as or key.name
    return request[key.name] if key.name in BESIDE else params[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("route", ["per_turn", "exact", "endpoint"])
async def test_a_key_is_sent_or_heeded_or_refused_as_the_table_says(
    name: str, route: Route, template: ChatTemplate
):
    key, sampling = KEYS[name], settings(KEYS[name])
    policy = policy_of(route, sampling)
    if key.fate(route) == "refused":
        where = rf"policy\.sampling\.extra_body\.{name}: got .*; .*not heeded: .*"
        with pytest.raises(ConfigError, match=where):
            check_sampling_keys(policy)
        for neutral in key.neutral:
            check_sampling_keys(policy_of(route, SamplingSettings(extra_body={name: neutral})))
        return
    check_sampling_keys(policy)
    with MockPolicy(replies(template)) as mock:
        request, _ = await request_of(mock, template, route, sampling, {})
    if route != "exact":
        assert request[name] == key.example
    elif key.exact == "template":
        prompt = template.decode(request["token_ids"])
        assert {"chat_template_kwargs": "False", "reasoning_effort": "low", "documents": "title"}[
            name
        ] in prompt
    elif name == "response_format":
        assert sent(request, key) == {"json": {"type": "object"}}
    elif name == "stop_token_ids":
        assert set(sent(request, key)) == {7, template.end_id}
    elif key.exact == "passed on":
        assert sent(request, key) == key.example


@pytest.mark.parametrize("route", ["per_turn", "exact", "endpoint"])
@pytest.mark.parametrize(
    "name", ["stop", "logit_bias", "presence_penalty", "frequency_penalty", "top_k", "max_completion_tokens"]
)
async def test_an_environments_own_arguments_are_sent_on_every_route(
    name: str, route: Route, template: ChatTemplate
):
    key = KEYS[name]
    for own in ({name: key.example}, {"extra_body": {name: key.example}}):
        check_environment_sampling(policy_of(route, SamplingSettings()), own)
        with MockPolicy(replies(template)) as mock:
            request, _ = await request_of(mock, template, route, SamplingSettings(), own)
        if route == "exact":
            assert sent(request, key) == key.example
        else:
            assert key.example in (request.get(name), request.get(key.sent_as or name))


def test_what_nobody_knows_is_refused_by_exact_and_passed_on_to_endpoints():
    unknown = SamplingSettings(extra_body={"nonesuch": 1})
    with pytest.raises(ConfigError, match=r"policy\.sampling\.extra_body\.nonesuch: got 1; .*`per_turn`"):
        check_sampling_keys(policy_of("exact", unknown))
    with pytest.raises(ConfigError, match=r"sampling\.extra_body\.nonesuch"):
        check_sampling_keys(policy_of("exact", SamplingSettings()), unknown)
    check_sampling_keys(policy_of("endpoint", unknown))


def test_an_environments_tool_choice_is_refused_by_name_where_it_cannot_be_heeded():
    policy = policy_of("exact", SamplingSettings())
    with pytest.raises(ConfigError, match=r"the environment's sampling_args\.tool_choice: got 'required'"):
        check_environment_sampling(policy, {"tool_choice": "required"})
    check_environment_sampling(policy, {"tool_choice": "auto", "n": 4})
    check_environment_sampling(policy_of("per_turn", SamplingSettings()), {"tool_choice": "required"})


async def test_a_turn_of_an_environment_that_cannot_be_heeded_fails_by_name(template: ChatTemplate):
    with MockPolicy(replies(template)) as mock, pytest.raises(PolicyError, match="parallel_tool_calls"):
        await request_of(mock, template, "exact", SamplingSettings(), {"parallel_tool_calls": False})


async def test_no_call_is_read_where_the_turn_may_call_nothing(template: ChatTemplate):
    call = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    for choice, calls in (("none", 0), ("auto", 1)):
        with MockPolicy(replies(template, call)) as mock:
            own = {"tool_choice": choice}
            _, answer = await request_of(mock, template, "exact", SamplingSettings(), own)
        assert len(answer.message.tool_calls or []) == calls
        assert answer.message.content == ("" if calls else call)
        assert answer.message.finish_reason == ("tool_calls" if calls else "stop")


def test_the_table_is_in_the_documentation():
    names = [key.name for key in SAMPLING_KEYS]
    assert len(names) == len(set(names))
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    assert all(f"| `{name}` |" in page for name in names)
