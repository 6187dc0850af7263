"""Answers that are nearly OpenAI's, over real HTTP: read where the meaning is clear, else a plain word."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import verifiers as vf
from aiohttp import web
from verifiers.legacy.types import AssistantMessage, Response, Tool, ToolCall, ToolMessage, UserMessage

from workers.environments import tracing
from workers.environments.tracing import EpisodeTrace
from workers.errors import PolicyError, PolicyRefusal
from workers.policy.chat_client import ChatPolicyClient
from workers.policy.endpoint import sampling_args
from workers.settings import PolicyEndpoint, SamplingSettings

LOOK = Tool(name="look", description="Look.", parameters={"type": "object", "properties": {}})
Answer = Callable[[dict[str, Any]], tuple[int, Any] | tuple[int, Any, dict[str, str]]]


@asynccontextmanager
async def served(
    answer: Answer, **settings: Any
) -> AsyncIterator[tuple[ChatPolicyClient, list[dict[str, Any]]]]:
    """A client of an endpoint that answers as told, and the bodies of its requests."""
    bodies: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        status, made, *rest = answer(bodies[-1])
        text = made if isinstance(made, str | bytes) else json.dumps(made)
        body = text.encode() if isinstance(text, str) else text
        return web.Response(status=status, body=body, headers=rest[0] if rest else {})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    client = ChatPolicyClient(
        PolicyEndpoint(kind="openai", model="mock", base_url=f"http://{host}:{port}/v1", **settings)
    )
    try:
        yield client, bodies
    finally:
        await client.close()
        await runner.cleanup()


async def ask(client: ChatPolicyClient, messages: Any = None, tools: list[Tool] | None = None) -> Response:
    prompt = messages or [UserMessage(content="look around")]
    endpoint = client._endpoint  # type: ignore[attr-defined]
    return await client.get_response(prompt, "mock", sampling_args(endpoint, None), tools)


def completion(message: dict[str, Any], finish: Any = "stop", **over: Any) -> dict[str, Any]:
    made = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    made.update(over)
    return {name: value for name, value in made.items() if value != "absent"}


def said(text: Any = "ok", finish: Any = "stop", **over: Any) -> dict[str, Any]:
    return completion({"role": "assistant", "content": text}, finish, **over)


def called(finish: Any = "tool_calls", **over: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"where": "x"}'}}
    call.update(over)
    call = {name: value for name, value in call.items() if value != "absent"}
    return completion({"role": "assistant", "content": None, "tool_calls": [call]}, finish)


TEXTS = {
    "eos_token": said(finish="eos_token"),
    "end_turn": said(finish="end_turn"),
    "STOP": said(finish="STOP"),
    "stop_sequence": said(finish="stop_sequence"),
    "no finish reason": said(finish=None),
    "no created": said(created="absent"),
    "no id, object and model": said(id="absent", object="absent", model="absent"),
    "no usage": said(usage="absent"),
    "empty usage": said(usage={}),
    "usage in text": said(usage={"prompt_tokens": "3", "completion_tokens": "2"}),
    "usage of nulls": said(usage={"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}),
    "parts": said([{"type": "text", "text": "o"}, {"type": "text", "text": "k"}]),
    "no role": completion({"content": "ok"}),
    "text": {"choices": [{"text": "ok"}]},
    "byte order mark": "\ufeff" + json.dumps(said()) + "\n\n",
    "null calls": completion({"role": "assistant", "content": "ok", "tool_calls": None, "refusal": None}),
    "index and logprobs missing": {"choices": [{"message": {"content": "ok"}}]},
    "stream": 'data: {"choices":[{"delta":{"role":"assistant","content":"o"}}]}\n\n'
    'data: {"choices":[{"delta":{"content":"k"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
}


@pytest.mark.parametrize("name", TEXTS)
async def test_text_is_read_from_an_answer_that_is_nearly_openais(name: str) -> None:
    async with served(lambda _: (200, TEXTS[name])) as (client, _):
        answer = await ask(client)
    assert (answer.message.content, answer.message.finish_reason) == ("ok", "stop")


CALLS = {
    "object": called(function={"name": "look", "arguments": {"where": "x"}}),
    "null id": called(id=None),
    "no id": called(id="absent"),
    "number for an id": called(id=7),
    "no type": called(type="absent"),
    "finish reason stop": called(finish="stop"),
    "no finish reason": called(finish=None),
    "tool_use": called(finish="tool_use"),
    "no function": called(function="absent", name="look", arguments='{"where": "x"}'),
    "legacy": completion(
        {"role": "assistant", "function_call": {"name": "look", "arguments": '{"where": "x"}'}},
        "function_call",
    ),
    "in a choice of its own": {
        **said("I look."),
        "choices": [*said("I look.", "tool_calls")["choices"], *called()["choices"]],
    },
    "calls as text": completion({"tool_calls": json.dumps([{"name": "look", "arguments": {"where": "x"}}])}),
}


@pytest.mark.parametrize("name", CALLS)
async def test_tool_call_is_read_from_an_answer_that_is_nearly_openais(name: str) -> None:
    async with served(lambda _: (200, CALLS[name])) as (client, _):
        answer = await ask(client, tools=[LOOK])
    [call] = answer.message.tool_calls or []
    assert (call.name, json.loads(call.arguments)) == ("look", {"where": "x"})
    assert call.id


def part(name: str | None, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}, **more}


STREAMS = {
    "in order": [part("look", "{", index=0, id="a"), part(None, "}", index=0), part("see", "{}", index=1)],
    "from 1": [part("look", "{", index=1, id="a"), part("look", "}", index=1), part("see", "{}", index=2)],
    "all 0": [part("look", "{}", index=0, id="a"), part("see", "{}", index=0, id="b")],
    "no index": [part("look", "{", id="a"), part(None, "}"), part("see", {"x": 1}, id="b")],
    "null index": [part("look", "{", index=None), part("", "}", index=None), part("see", "{}", index=None)],
}


@pytest.mark.parametrize("parts", STREAMS.values(), ids=list(STREAMS))
async def test_calls_of_a_stream_are_told_apart(parts: list[dict[str, Any]]) -> None:
    chunks = [{"choices": [{"delta": {"tool_calls": [each]}}]} for each in parts]
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    async with served(lambda _: (200, stream)) as (client, _):
        answer = await ask(client, tools=[LOOK])
    calls = answer.message.tool_calls or []
    assert [call.name for call in calls] == ["look", "see"]
    assert json.loads(calls[0].arguments) == {}


async def test_half_a_surrogate_in_an_answer_is_replaced() -> None:
    made = called(function={"name": "look", "arguments": '{"where": "\ud83d"}'})
    made["choices"][0]["message"]["content"] = "o \ud83d k"
    assert "\\ud83d" in json.dumps(made)
    async with served(lambda _: (200, json.dumps(made))) as (client, _):
        answer = await ask(client, tools=[LOOK])
    [call] = answer.message.tool_calls or []
    assert (answer.message.content, call.arguments) == ("o \ufffd k", '{"where": "\ufffd"}')


@pytest.mark.parametrize("ids", [[7, 8.5], ["seven"], [7, None], "78", {"7": 8}])
@pytest.mark.parametrize("of_the_prompt", [True, False])
async def test_ids_that_are_none_leave_the_answer_without(ids: Any, of_the_prompt: bool) -> None:
    prompt, sampled = ([1, 2], ids) if not of_the_prompt else (ids, [7, 8])
    made = said(prompt_token_ids=prompt)
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}] * 2}
    made["choices"][0] |= {"token_ids": sampled, "logprobs": logprobs}
    async with served(lambda _: (200, made), token_ids=True) as (client, _):
        answer = await ask(client)
    assert (answer.message.content, answer.message.tokens) == ("ok", None)


async def test_several_answers_are_no_answer() -> None:
    made = said() | {"choices": [*said("one")["choices"], *said("other")["choices"]]}
    async with served(lambda _: (200, made)) as (client, _):
        with pytest.raises(vf.ModelError):
            await ask(client)


@pytest.mark.parametrize("arguments", ["", None, {}])
async def test_call_without_arguments_has_none(arguments: Any) -> None:
    made = called(function={"name": "look", "arguments": arguments})
    async with served(lambda _: (200, made)) as (client, _):
        answer = await ask(client, tools=[LOOK])
    assert [call.arguments for call in answer.message.tool_calls or []] == ["{}"]


async def test_calls_of_the_same_id_are_told_apart() -> None:
    made = called()
    made["choices"][0]["message"]["tool_calls"] *= 2
    async with served(lambda _: (200, made)) as (client, _):
        answer = await ask(client, tools=[LOOK])
    ids = [call.id for call in answer.message.tool_calls or []]
    assert len(set(ids)) == 2 and ids[0] == "call_1"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_is_read_under_either_name(name: str) -> None:
    made = completion({"role": "assistant", "content": "ok", name: "I think"}, "eos")
    async with served(lambda _: (200, made)) as (client, _):
        answer = await ask(client)
    assert (answer.message.content, answer.message.reasoning_content) == ("ok", "I think")


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "repetition"])
async def test_answer_cut_off_says_so_in_any_word(finish: str) -> None:
    async with served(lambda _: (200, said(finish=finish))) as (client, _):
        answer = await ask(client)
    assert (answer.message.finish_reason, answer.message.is_truncated) == ("length", True)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"error": {"message": "Provider returned error", "code": 502}}, r"answered 502: Provider returned"),
        ({"error": "no such thing"}, "no such thing"),
        (said(choices=[], error={"message": "out of memory"}), "out of memory"),
        ({"object": "error", "message": "bad luck", "code": 50001}, "bad luck"),
        ("<!DOCTYPE html><html><title>Sign in</title></html>", "a web page, 'Sign in': is policy.base_url"),
        ("", "it is empty"),
        ("ok", "it is no JSON"),
        (said(finish="abort"), "broke it off: its finish reason is 'abort'"),
        (called(function={"name": None, "arguments": "{}"}), "a tool call names no tool"),
        ({"choices": []}, "it has no choice"),
    ],
)
async def test_answer_that_is_none_is_worded_plainly(
    made: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.policy.outage._MIN_WAIT", 0.01)
    async with served(lambda _: (200, made), request_timeout=60) as (client, _):
        with pytest.raises(PolicyError, match=words) as raised:
            await ask(client)
    assert "validation error" not in str(raised.value)


async def test_page_in_place_of_a_refusal_is_named_by_its_title() -> None:
    page = "<html><head><title>403 Forbidden</title></head><body>" + "x" * 5000
    async with served(lambda _: (403, page)) as (client, _):
        with pytest.raises(PolicyRefusal, match=r"answered 403: a web page, '403 Forbidden'$"):
            await ask(client)


async def test_limit_is_sent_under_both_names() -> None:
    async with served(lambda _: (200, said()), sampling=SamplingSettings(max_tokens=9)) as (client, bodies):
        await ask(client)
    assert (bodies[0]["max_tokens"], bodies[0]["max_completion_tokens"]) == (9, 9)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
         "'max_completion_tokens' instead."),
        ("max_completion_tokens", "body.max_completion_tokens: Extra inputs are not permitted"),
        ("max_tokens", "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."),
    ],
)  # fmt: skip
async def test_limit_is_sent_under_the_name_that_a_server_takes(refused: str, message: str) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": {"message": message}}) if refused in body else (200, said())

    async with served(answer, sampling=SamplingSettings(max_tokens=9)) as (client, bodies):
        await ask(client)
        await ask(client)
    kept = {"max_tokens", "max_completion_tokens"} - {refused}
    assert [sorted(body.keys() & {"max_tokens", "max_completion_tokens"}) for body in bodies[1:]] == [
        sorted(kept)
    ] * 2, "the second request knows"


@pytest.mark.parametrize(
    "told",
    [
        {"prompt_tokens_details": {"cached_tokens": 2}},
        {"input_tokens_details": {"cached_tokens": "2"}},
        {"prompt_cache_hit_tokens": 2},
        {"cache_read_input_tokens": 2},
    ],
)
async def test_tokens_that_the_server_had_in_its_cache_are_counted(told: dict[str, Any]) -> None:
    made = said(usage={"prompt_tokens": 3, "completion_tokens": 2, **told})
    async with served(lambda _: (200, made)) as (client, _):
        answer = await ask(client)
    assert getattr(answer.usage, "cached_tokens", None) == 2


async def test_server_that_ignores_the_limit_is_noticed_once() -> None:
    made = said(usage={"prompt_tokens": 3, "completion_tokens": 400, "total_tokens": 403})
    async with served(lambda _: (200, made), sampling=SamplingSettings(max_tokens=16)) as (client, _):
        await ask(client)
        await ask(client)
        use = client.watch.use("worker")
        assert use is not None
        [notice] = use.notices
        assert client.watch.use("worker") is None
    assert "sampled 400 tokens" in notice and "policy.sampling.max_tokens" in notice


def strict(body: dict[str, Any]) -> tuple[int, Any]:
    for message in body["messages"]:
        for call in message.get("tool_calls") or []:
            try:
                json.loads(call["function"]["arguments"])
            except ValueError as error:
                return 400, {"error": {"message": str(error)}}
    return 200, said("done")


async def test_malformed_call_goes_back_to_a_strict_server_without_arguments_and_is_on_record_so() -> None:
    call = ToolCall(id="call_1", name="look", arguments='{"where": "x')
    prompt = [
        UserMessage(content="look"),
        AssistantMessage(content=None, tool_calls=[call]),
        ToolMessage(tool_call_id="call_1", content="that is no JSON"),
    ]
    trace = EpisodeTrace()
    token = tracing.current_trace.set(trace)
    try:
        async with served(strict) as (client, bodies):
            answer = await ask(client, prompt, [LOOK])
            await ask(client, prompt, [LOOK])
    finally:
        tracing.current_trace.reset(token)
    assert len(bodies) == 3, "the second time, it is known"
    exchange = trace.exchange_of(answer)
    assert exchange is not None
    [sent] = exchange.prompt[1].tool_calls or []
    assert sent.function.arguments == "{}"
    assert call.arguments == '{"where": "x', "the environment's own message stays"


async def test_messages_go_without_nulls_and_stay_on_record_as_they_were_sent() -> None:
    prompt: list[Any] = [
        UserMessage(content=[{"type": "text", "text": "look", "image_url": None}]),  # type: ignore[list-item]
        AssistantMessage(content=None, tool_calls=[ToolCall(id="1", name="look", arguments='{"a": null}')]),
        ToolMessage(tool_call_id="1", content="seen"),
    ]
    trace = EpisodeTrace()
    token = tracing.current_trace.set(trace)
    try:
        async with served(lambda _: (200, said())) as (client, bodies):
            answer = await ask(client, prompt, [LOOK])
    finally:
        tracing.current_trace.reset(token)
    prompt[2].content = "rewritten"
    prompt.clear()
    assert "null" not in json.dumps(bodies[0]["messages"]).replace('{\\"a\\": null}', "")
    assert bodies[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": null}'
    exchange = trace.exchange_of(answer)
    assert exchange is not None
    assert [message.content for message in exchange.prompt] == ["look", None, "seen"]


async def test_too_long_prompt_is_verifiers_error_whoever_says_it() -> None:
    refusal = {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}
    for status, made in ((400, refusal), (413, {"error": {"message": "Request too large"}}), (200, refusal)):
        if status == 200:
            made["error"]["code"] = 400  # type: ignore[assignment]
        async with served(lambda _, answer=(status, made): answer) as (client, _):
            with pytest.raises(vf.OverlongPromptError):
                await asyncio.wait_for(ask(client), 30)
