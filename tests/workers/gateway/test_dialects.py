# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# Answers are read as the packages type them, which is a union of a dozen for each dialect.
"""Every dialect says what the policy said: to the packages that programs speak it with."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.helpers.gateways import ServedGateway, served_gateway
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.scripted_policy import ScriptedPolicy, call, message

TOOL: dict[str, Any] = {
    "name": "bash",
    "description": "Runs it.",
    "parameters": {"type": "object", "properties": {}},
}
TWO_CALLS: list[tuple[str, dict[str, Any] | str]] = [
    ("bash", {"command": "ls"}),
    ("bash", {"command": "pwd"}),
]
PARALLEL = Reply("I look around.", TWO_CALLS)


def in_time(work: Any) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(limited())


@pytest.mark.parametrize("stream", [False, True])
def test_chat_completions_have_parallel_calls_usage_and_finish_reason(stream: bool) -> None:
    async def play() -> None:
        with MockPolicy(PARALLEL) as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                arguments: Any = {
                    "model": "any",
                    "messages": [{"role": "user", "content": "go"}],
                    "tools": [{"type": "function", "function": TOOL}],
                    "stream": stream,
                }
                if stream:
                    arguments["stream_options"] = {"include_usage": True}
                made: Any = client.chat.completions.create(**arguments)
                usage: Any
                if not stream:
                    answer = await made
                    said = answer.choices[0].message
                    calls = [(c.function.name, c.function.arguments) for c in said.tool_calls]
                    content, finish, usage = said.content, answer.choices[0].finish_reason, answer.usage
                else:
                    content, finish, usage = "", None, None
                    calls = list[tuple[str, str]]()
                    async for chunk in await made:
                        usage = chunk.usage or usage
                        for choice in chunk.choices:
                            content += choice.delta.content or ""
                            finish = choice.finish_reason or finish
                            for part in choice.delta.tool_calls or []:
                                calls.append((part.function.name, part.function.arguments))
        assert content == "I look around."
        assert [(name, json.loads(arguments)) for name, arguments in calls] == TWO_CALLS
        assert finish == "tool_calls"
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 2, 5)

    in_time(play)


@pytest.mark.parametrize("stream", [False, True])
def test_responses_have_parallel_calls_usage_and_status(stream: bool) -> None:
    async def play() -> None:
        with MockPolicy(PARALLEL) as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                arguments: Any = {
                    "model": "any",
                    "instructions": "be brief",
                    "input": "go",
                    "tools": [{"type": "function", "strict": False, **TOOL}],
                }
                if not stream:
                    answer = await client.responses.create(**arguments)
                else:
                    async with client.responses.stream(**arguments) as events:
                        deltas = [e.delta async for e in events if e.type == "response.output_text.delta"]
                        answer = await events.get_final_response()
                    assert "".join(deltas) == "I look around."
                sent = policy.requests[0]["messages"]
        assert answer.status == "completed"
        assert answer.output_text == "I look around."
        calls = [(o.name, json.loads(o.arguments)) for o in answer.output if o.type == "function_call"]
        assert calls == TWO_CALLS
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 2)
        assert [each["role"] for each in sent] == ["system", "user"]

    in_time(play)


@pytest.mark.parametrize("stream", [False, True])
def test_messages_have_parallel_calls_usage_and_stop_reason(stream: bool) -> None:
    async def play() -> None:
        with MockPolicy(PARALLEL) as policy:
            async with served_gateway(policy) as served, served.anthropic() as client:
                arguments: Any = {
                    "model": "any",
                    "max_tokens": 99,
                    "system": "be brief",
                    "messages": [{"role": "user", "content": "go"}],
                    "tools": [
                        {"name": "bash", "description": "Runs it.", "input_schema": TOOL["parameters"]}
                    ],
                }
                if not stream:
                    answer = await client.messages.create(**arguments)
                else:
                    async with client.messages.stream(**arguments) as events:
                        texts = [text async for text in events.text_stream]
                        answer = await events.get_final_message()
                    assert "".join(texts) == "I look around."
        assert [block.type for block in answer.content] == ["text", "tool_use", "tool_use"]
        assert [(b.name, b.input) for b in answer.content if b.type == "tool_use"] == TWO_CALLS
        assert answer.stop_reason == "tool_use"
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 2)

    in_time(play)


def test_answers_that_are_cut_off_say_so_in_each_dialect() -> None:
    async def play() -> None:
        with MockPolicy(default=Reply("and so", finish_reason="length")) as policy:
            async with served_gateway(policy) as served:
                async with served.openai() as client, served.anthropic() as other:
                    user: Any = [{"role": "user", "content": "go"}]
                    chat = await client.chat.completions.create(model="m", messages=user)
                    response = await client.responses.create(model="m", input="go")
                    said = await other.messages.create(model="m", messages=user, max_tokens=5)
                steps = served.steps()
        assert chat.choices[0].finish_reason == "length"
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert said.stop_reason == "max_tokens"
        assert [step.dialect for step in steps] == ["chat", "responses", "messages"]

    in_time(play)


def thinking(body: dict[str, Any]) -> Any:
    made = message(
        "done" if len(body["messages"]) > 1 else None,
        *([] if len(body["messages"]) > 1 else [call("bash", {})]),
    )
    made["choices"][0]["message"]["reasoning_content"] = "hm"
    return made


def test_reasoning_is_told_and_comes_back_to_the_policy() -> None:
    """The agent sends back what it was given; the policy sees its own reasoning again."""

    async def chat(served: ServedGateway) -> None:
        async with served.openai() as client:
            messages: Any = [{"role": "user", "content": "chat"}]
            tools: Any = [{"type": "function", "function": TOOL}]
            answer = await client.chat.completions.create(model="m", messages=messages, tools=tools)
            said: Any = answer.choices[0].message
            assert said.reasoning_content == "hm"
            back: Any = {"role": "assistant", "tool_calls": [c.model_dump() for c in said.tool_calls]}
            result: Any = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "ok"}
            await client.chat.completions.create(model="m", messages=[*messages, back, result], tools=tools)

    async def responses(served: ServedGateway) -> None:
        async with served.openai() as client:
            tools: Any = [{"type": "function", "strict": False, **TOOL}]
            answer = await client.responses.create(model="m", input="responses", tools=tools)
            assert answer.output[0].type == "reasoning"
            items = [item.model_dump(exclude_none=True) for item in answer.output]
            items[0]["summary"] = []  # as agents do that send it back sealed only
            result = {"type": "function_call_output", "call_id": items[-1]["call_id"], "output": "ok"}
            first = {"role": "user", "content": "responses"}
            whole: Any = [first, *items, result]
            await client.responses.create(model="m", input=whole, tools=tools)

    async def messages(served: ServedGateway) -> None:
        async with served.anthropic() as client:
            first: Any = {"role": "user", "content": "messages"}
            tools: Any = [{"name": "bash", "description": "Runs it.", "input_schema": TOOL["parameters"]}]
            answer = await client.messages.create(model="m", messages=[first], tools=tools, max_tokens=9)
            assert answer.content[0].type == "thinking"
            back: Any = {"role": "assistant", "content": [block.model_dump() for block in answer.content]}
            use: Any = answer.content[-1]
            result: Any = {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "ok"}],
            }
            await client.messages.create(model="m", messages=[first, back, result], tools=tools, max_tokens=9)

    async def play() -> None:
        for speak in (chat, responses, messages):
            with ScriptedPolicy(thinking) as policy:
                async with served_gateway(policy) as served:
                    await speak(served)
                    steps = served.steps()
            assert [(step.branch, step.parent_step) for step in steps] == [(0, None), (0, 0)]
            assert steps[1].prompt_messages[1].reasoning_content == "hm"
            assert steps[1].prompt_messages[:2] == [steps[0].prompt_messages[0], steps[0].action]

    in_time(play)


def test_tools_that_take_free_text_are_called_with_it() -> None:
    async def play() -> None:
        with MockPolicy(Reply(None, [("apply_patch", {"input": "*** Begin Patch"})])) as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                tools: Any = [{"type": "custom", "name": "apply_patch", "description": "Patches."}]
                answer = await client.responses.create(model="m", input="go", tools=tools)
                offered = policy.requests[0]["tools"][0]["function"]
        made: Any = answer.output[0]
        assert (made.type, made.name, made.input) == ("custom_tool_call", "apply_patch", "*** Begin Patch")
        assert offered["parameters"]["required"] == ["input"]

    in_time(play)


def test_models_and_token_counts_are_told() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with (
                served_gateway(policy) as served,
                served.openai() as client,
                served.anthropic() as other,
            ):
                models = [model.id async for model in await client.models.list()]
                same = [model.id async for model in await other.models.list()]
                counted = await other.messages.count_tokens(
                    model="m", messages=[{"role": "user", "content": "x" * 400}]
                )
        assert models == same == ["mock"]
        assert 50 <= counted.input_tokens <= 400

    in_time(play)


@pytest.mark.parametrize("arguments", ['{"path": "\\ud800"}', '{"size": NaN}', '{"size": -Infinity}'])
def test_odd_arguments_of_a_tool_call_reach_the_agent_as_json(arguments: str) -> None:
    async def play() -> None:
        with MockPolicy(default=Reply(None, [("bash", arguments)])) as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                for path in ("messages", "chat/completions", "responses"):
                    asked = {"messages": [{"role": "user", "content": "go"}], "max_tokens": 9, "input": "go"}
                    for stream in (False, True):
                        answer = await client.post(
                            f"{served.url}/v1/{path}",
                            json={**asked, "stream": stream, "note": f"{stream}"},
                            headers={"authorization": f"Bearer {served.key}"},
                        )
                        assert answer.status_code == 200, answer.text
                        texts = answer.text.splitlines() if stream else [f"data: {answer.text}"]
                        for text in texts:
                            if text.startswith("data: {"):
                                json.loads(text.removeprefix("data: "), parse_constant=pytest.fail)

    in_time(play)
