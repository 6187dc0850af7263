"""`policy.tokens: exact`: token ids in and out, over real HTTP, from a whole episode down to one turn."""

from pathlib import Path
from typing import Any

import pytest
import verifiers as vf
from verifiers.legacy.types import AssistantMessage, Tool, UserMessage

from cluster.dataset.sequences import sequences_of
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.errors import PolicyError, TemplateError
from workers.policy.chat_template import ChatTemplate
from workers.policy.classic_client import make_client
from workers.policy.endpoint import sampling_args
from workers.policy.exact_answers import read_answer
from workers.policy.exact_client import ExactPolicyClient
from workers.policy.sampling_keys import ExactRequest
from workers.policy.template_renderer import make_renderer
from workers.settings import PolicyEndpoint, SamplingSettings

EXAMPLES = Path(__file__).parents[3] / "examples"
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


def test_what_the_engine_had_in_its_cache_is_on_each_step(template: ChatTemplate):
    first, second = says(template, CALL + END), says(template, "3" + END)
    first.cached_tokens, second.cached_tokens = 0, 1_000_000  # more than there are: the prompt's are the most
    with (
        MockPolicy(first, second) as policy,
        rollout_worker("countdown.py", policy=exact(policy, template), search_path=EXAMPLES) as worker,
    ):
        episode = record(played(worker, spec(rows(worker)[0]))[0])
    usages = [step.usage for step in episode.steps]
    assert all(usage is not None for usage in usages)
    whole = len(episode.steps[1].prompt_token_ids or [])
    assert whole and [usage.cached_tokens for usage in usages if usage] == [0, whole]
    assert episode.usage.cached_tokens == whole


async def test_an_engine_that_says_nothing_of_its_cache_leaves_it_open(template: ChatTemplate):
    with MockPolicy(says(template, "3" + END)) as policy:
        answer = await ask(exact(policy, template))
    assert getattr(answer.usage, "cached_tokens", None) is None


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


async def answered(policy: MockPolicy, endpoint: PolicyEndpoint, offers: bool = True) -> Any:
    client = make_client(endpoint)
    tools = [Tool(name="add", description="Add.", parameters={"type": "object", "properties": {}})]
    try:
        args: Any = sampling_args(endpoint, 7)
        asked: Any = [UserMessage(content="1 + 2?")]
        return (await client.get_response(asked, "mock", args, tools if offers else None)).message
    finally:
        await client.close()


@pytest.mark.parametrize(
    "sampled, content, stop, offers",
    [
        ("3<|endoftext|>", "3", None, True),
        ("3<|endoftext|>", "3", None, False),
        (f"3{END}", "3", None, True),
        ("so: 3. No", "so: 3", ["."], True),
        ("so: 3. No", "so: 3. ", ["No"], False),
        ("3<|fim|>4" + END, "3<|fim|>4", None, True),
        ("3<|fim|>4" + END, "34", None, False),
    ],
)
async def test_content_is_what_chat_completions_would_give(
    sampled: str, content: str, stop: list[str] | None, offers: bool, tmp_path: Path
):
    folder = make_tokenizer(tmp_path)
    own = ChatTemplate(str(folder))
    own.tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|fim|>"]})
    own.tokenizer.save_pretrained(folder)
    ids = own.encode(sampled)
    reply = Reply(content, token_ids=ids, logprobs=[-0.5] * len(ids), finish_reason="stop")
    with MockPolicy(default=reply) as policy:
        settings = exact(policy, own, sampling=SamplingSettings(stop=stop))
        by_ids = await answered(policy, settings, offers)
        by_chat = await answered(policy, settings.model_copy(update={"tokens": "per_turn"}), offers)
    assert by_ids.content == by_chat.content == content
    assert by_ids.tokens.completion_ids == ids


def test_a_turn_that_was_cut_off_keeps_its_last_token(template: ChatTemplate):
    renderer = make_renderer(PolicyEndpoint(kind="openai", model=template.model, tokens="exact"))
    ids = template.encode("12")
    answer = {"completion_ids": ids, "finish_reason": "length"}
    assert read_answer(renderer, answer, [], ExactRequest())["content"] == "12"


def test_a_turn_that_vllm_ends_by_itself_is_cut_off_or_none_at_all(template: ChatTemplate):
    """`repetition_detection` ends a turn that goes round in circles; an aborted one is no action."""
    renderer = make_renderer(PolicyEndpoint(kind="openai", model=template.model, tokens="exact"))
    answer = {"completion_ids": template.encode("12"), "finish_reason": "repetition"}
    assert read_answer(renderer, answer, [], ExactRequest())["finish_reason"] == "length"
    with pytest.raises(PolicyError, match="its finish reason is 'abort'"):
        read_answer(renderer, {**answer, "finish_reason": "abort"}, [], ExactRequest())


def qwen3(folder: Path) -> ChatTemplate:
    made = ChatTemplate(str(make_tokenizer(folder)))
    tags = ("tool_call", "tool_response", "think")
    marks = [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
    made.tokenizer.add_tokens(marks)
    made.tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    made.tokenizer.save_pretrained(folder)
    return made


async def test_a_user_turn_goes_on_from_a_thinking_answer_with_the_qwen3_renderer(tmp_path: Path):
    own = qwen3(tmp_path)
    thought = own.encode("<think>\nA sum.\n</think>\n\n3" + END)
    reply = Reply(token_ids=thought, logprobs=[-0.5] * len(thought))
    with MockPolicy(default=reply) as policy:
        client = ExactPolicyClient(exact(policy, own, renderer="qwen3"))
        asked: Any = [UserMessage(content="1 + 2?")]
        first = await client.get_response(asked, "mock", {})
        assert first.message.reasoning_content == "A sum."
        said = AssistantMessage(content=first.message.content, reasoning_content="A sum.")
        step = {"prompt": asked, "completion": [said], "response": first, "tokens": None}
        later: Any = [*asked, said, UserMessage(content="Twice that?")]
        second = await client.get_response(later, "mock", {}, state={"trajectory": [step]})
        await client.close()
    prompt, before = second.message.tokens.prompt_ids, first.message.tokens
    so_far = [*before.prompt_ids, *before.completion_ids]
    assert prompt[: len(so_far)] == so_far
    assert "Twice that?" in own.decode(prompt[len(so_far) :])


async def test_a_renderer_that_writes_turns_anew_is_named_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    own = qwen3(tmp_path)
    thought = own.encode("<think>\nA sum.\n</think>\n\n3" + END)
    reply = Reply(token_ids=thought, logprobs=[-0.5] * len(thought))
    with MockPolicy(default=reply) as policy:
        client = ExactPolicyClient(exact(policy, own, renderer="qwen3"))
        monkeypatch.setattr(client._renderer, "effective_thinking_retention", "tool_cycle")
        asked: Any = [UserMessage(content="1 + 2?")]
        first = await client.get_response(asked, "mock", {})
        said = AssistantMessage(content=first.message.content, reasoning_content="A sum.")
        step = {"prompt": asked, "completion": [said], "response": first, "tokens": None}
        later: Any = [*asked, said, UserMessage(content="Twice that?")]
        with pytest.raises(PolicyError, match="Qwen3Renderer writes earlier turns anew once a user message"):
            await client.get_response(later, "mock", {}, state={"trajectory": [step]})
        await client.close()


def test_what_the_template_is_told_is_in_the_prompt_of_a_renderer_of_the_package(tmp_path: Path):
    own = qwen3(tmp_path)
    for enabled in (True, False):
        sampling = SamplingSettings(extra_body={"chat_template_kwargs": {"enable_thinking": enabled}})
        endpoint = PolicyEndpoint(
            kind="openai", model=own.model, tokens="exact", renderer="qwen3", sampling=sampling
        )
        renderer = make_renderer(endpoint)
        user = [{"role": "user", "content": "Hi"}]
        prompt = own.decode(renderer.render(user, add_generation_prompt=True).token_ids)
        assert ("<think>\n\n</think>" in prompt) == (not enabled)
    sampling = SamplingSettings(extra_body={"chat_template_kwargs": {"nonesuch": 1}})
    with pytest.raises(TemplateError, match=r"renderer 'qwen3' .*nonesuch"):
        make_renderer(endpoint.model_copy(update={"sampling": sampling}))


def test_no_client_is_made_where_the_template_is_not_exact(tmp_path: Path):
    folder = make_tokenizer(tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}")
    endpoint = PolicyEndpoint(
        kind="openai", model="m", base_url="http://127.0.0.1:1/v1", tokens="exact", tokenizer=str(folder)
    )
    with pytest.raises(TemplateError, match=r"set policy\.renderer to .*qwen3.*`per_turn`"):
        ExactPolicyClient(endpoint)
    with pytest.raises(TemplateError, match=r"policy\.renderer is 'nonesuch'"):
        ExactPolicyClient(endpoint.model_copy(update={"renderer": "nonesuch"}))
