"""`policy.tokens: exact`: token ids in and out, over real HTTP, from a whole episode down to one turn."""

from pathlib import Path
from typing import Any

import pytest
import verifiers as vf
from verifiers.legacy.types import Tool, UserMessage

from cluster.dataset.sequences import sequences_of
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.chat_template import ChatTemplate
from workers.errors import PolicyError, TemplateError
from workers.exact_client import ExactPolicyClient
from workers.policy_client import sampling_args
from workers.settings import PolicyEndpoint, SamplingSettings

EXAMPLES = Path(__file__).parents[2] / "examples"
CALL = '<tool_call>\n{"name":"add",  "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return ChatTemplate(str(make_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def says(template: ChatTemplate, text: str, finish_reason: str = "stop") -> Reply:
    ids = template.encode(text)
    return Reply(token_ids=ids, logprobs=[-0.5] * len(ids), finish_reason=finish_reason)


def exact(policy: MockPolicy, template: ChatTemplate, **settings: Any) -> PolicyEndpoint:
    return PolicyEndpoint(
        kind="openai",
        model="mock",
        base_url=policy.base_url,
        token_ids=True,
        tokens="exact",
        tokenizer=template.model,
        **settings,
    )


async def ask(endpoint: PolicyEndpoint) -> Any:
    client = ExactPolicyClient(endpoint)
    tools = [Tool(name="add", description="Add.", parameters={"type": "object", "properties": {}})]
    try:
        args: Any = sampling_args(endpoint, 7)
        return await client.get_response([UserMessage(content="1 + 2?")], "mock", args, tools)
    finally:
        await client.close()


def test_an_episodes_turns_go_on_from_each_other_verbatim(template: ChatTemplate):
    replies = [says(template, CALL + END), says(template, "It is thr", "length"), says(template, "3" + END)]
    with (
        MockPolicy(*replies) as policy,
        rollout_worker("countdown.py", policy=exact(policy, template), search_path=EXAMPLES) as worker,
    ):
        episode = record(played(worker, spec(rows(worker)[0]))[0])
    first, second = episode.steps
    assert first.action.tool_calls is not None
    assert first.action.tool_calls[0].function.name == "add"
    assert first.action.tool_calls[0].function.arguments == '{"a": 1, "b": 2}'
    assert first.completion_token_ids == replies[0].token_ids
    so_far = [*first.prompt_token_ids, *first.completion_token_ids]
    assert second.prompt_token_ids[: len(so_far)] == so_far
    assert template.decode(second.prompt_token_ids[len(so_far) :]).startswith(
        "\n<|im_start|>user\n<tool_response>\n3\n</tool_response>"
    )
    assert [request["token_ids"] for request in policy.requests] == [
        step.prompt_token_ids for step in episode.steps
    ]
    assert episode.is_truncated
    assert len(sequences_of(episode)) == 1


async def test_the_request_carries_the_sampling_settings_as_vllm_names_them(template: ChatTemplate):
    sampling = SamplingSettings(temperature=0.7, max_tokens=9, stop=["."], extra_body={"min_p": 0.1})
    with MockPolicy(says(template, "3" + END)) as policy:
        answer = await ask(exact(policy, template, sampling=sampling))
    asked = policy.requests[0]["sampling_params"]
    assert {**asked, "stop_token_ids": None} == {
        "temperature": 0.7,
        "max_tokens": 9,
        "stop": ["."],
        "min_p": 0.1,
        "seed": 7,
        "stop_token_ids": None,
        "logprobs": 1,
        "skip_special_tokens": False,
    }
    assert answer.message.content == "3"


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n{broken}\n</tool_call>",
        "",
        "<tool_call>{",
        "<tool_call>" + "[" * 100_000,
        r'<tool_call>{"name": "\ud83d", "arguments": {}}</tool_call>',
    ],
    ids=["broken", "nothing", "cut off", "too deep", "no UTF-8"],
)
async def test_what_is_no_call_is_content(template: ChatTemplate, text: str):
    with MockPolicy(says(template, text + END)) as policy:
        message = (await ask(exact(policy, template))).message
    assert (message.content, message.tool_calls) == (text, None)


def test_a_character_that_is_none_reaches_the_record_as_the_model_wrote_it(template: ChatTemplate):
    call = r'<tool_call>{"name": "add", "arguments": {"a": 1, "b": "\ud83d \u00e9"}}</tool_call>'
    replies = [says(template, call + END), says(template, "3" + END)]
    with (
        MockPolicy(*replies) as policy,
        rollout_worker("countdown.py", policy=exact(policy, template), search_path=EXAMPLES) as worker,
    ):
        episode = record(played(worker, spec(rows(worker)[0]))[0])
    assert (episode.status, len(episode.steps)) == ("finished", 2)
    [called] = episode.steps[0].action.tool_calls or []
    assert called.function.arguments == r'{"a": 1, "b": "\ud83d \u00e9"}'


async def test_calls_have_ids_of_their_own(template: ChatTemplate):
    with MockPolicy(default=says(template, CALL + CALL + END)) as policy:
        messages = [(await ask(exact(policy, template))).message for _ in range(2)]
    assert len({call.id for message in messages for call in message.tool_calls}) == 4


async def test_an_endpoint_without_token_ids_is_an_error_and_never_a_guess(template: ChatTemplate):
    reply = says(template, "3" + END)
    reply.logprobs = [*reply.logprobs[:-1], -9999.0]
    with MockPolicy(reply) as policy, pytest.raises(PolicyError, match="sampling evidence"):
        await ask(exact(policy, template))
    with MockPolicy(Fault(status=404)) as policy, pytest.raises(PolicyError, match="404"):
        await ask(exact(policy, template))


async def test_a_prompt_over_the_context_is_verifiers_own_error(template: ChatTemplate):
    message = "This model's maximum context length is 8 tokens."
    with MockPolicy(Fault(status=400, message=message)) as policy, pytest.raises(vf.OverlongPromptError):
        await ask(exact(policy, template))


def test_no_client_is_made_where_the_template_is_not_exact(tmp_path: Path):
    folder = make_tokenizer(tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}")
    endpoint = PolicyEndpoint(
        kind="openai", model="m", base_url="http://127.0.0.1:1/v1", tokens="exact", tokenizer=str(folder)
    )
    with pytest.raises(TemplateError, match=r"set policy\.renderer to .*qwen3.*`per_turn`"):
        ExactPolicyClient(endpoint)
    with pytest.raises(TemplateError, match=r"policy\.renderer is 'nonesuch'"):
        ExactPolicyClient(endpoint.model_copy(update={"renderer": "nonesuch"}))
