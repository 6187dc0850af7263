"""Model calls are steps: retries are one, what goes on is one branch, what does not begins another."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.helpers.gateways import ServedGateway, served_gateway
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.sandboxes import eventually
from tests.workers.gateway.test_dialects import TOOL, in_time

TOOLS: Any = [{"type": "function", "function": TOOL}]


async def ask(client: httpx.AsyncClient, served: ServedGateway, messages: Any, **headers: str) -> Any:
    answer = await client.post(
        f"{served.url}/v1/chat/completions",
        json={"model": "m", "messages": messages},
        headers={"authorization": f"Bearer {served.key}", **headers},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def test_a_sub_agent_a_fork_and_a_compacted_history_are_branches() -> None:
    async def play() -> None:
        with MockPolicy(*(Reply(f"answer {i}") for i in range(6))) as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                main = [user("go")]
                await ask(client, served, main)  # step 0, branch 0
                main += [assistant("answer 0"), user("more")]
                await ask(client, served, main)  # step 1, branch 0
                await ask(client, served, [user("you are a sub-agent")])  # step 2, branch 1
                main += [assistant("answer 1 "), user("and more")]
                await ask(client, served, main)  # step 3, branch 0: it sent a blank along
                fork = [user("go"), assistant("answer 0"), user("otherwise")]
                await ask(client, served, fork)  # step 4, branch 2, from step 0
                await ask(client, served, [user("summary: all went well"), user("go on")])  # step 5, branch 3
                steps = served.steps()
        assert [(s.branch, s.parent_step) for s in steps] == [
            (0, None),
            (0, 0),
            (1, 1),
            (0, 1),
            (2, 0),
            (3, 4),
        ]
        assert all(step.agent == "tester" and step.dialect == "chat" for step in steps)
        assert all(step.completion_token_ids == [7, 8] for step in steps)
        assert [m.content for m in steps[1].observations] == ["and more"]
        assert steps[2].observations == []
        assert steps[3].prompt_messages[3].content == "answer 1"

    in_time(play)


@pytest.mark.slow
def test_what_an_sdk_sends_again_is_one_step() -> None:
    async def play() -> None:
        with MockPolicy(Reply("first"), default=Reply("another"), latency=0.3) as policy:
            async with served_gateway(policy) as served:
                async with httpx.AsyncClient(trust_env=False, timeout=0.1) as hasty:
                    with suppress(httpx.TimeoutException):
                        await ask(hasty, served, [user("go")])
                async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                    again = await ask(client, served, [user("go")], **{"x-stainless-retry-count": "1"})
                    late = await ask(client, served, [user("go")], **{"x-stainless-retry-count": "2"})
                    assert again["content"] == late["content"] == "first"
                    key = {"idempotency-key": "a"}
                    pair = await asyncio.gather(
                        ask(client, served, [user("b")], **key), ask(client, served, [user("b")], **key)
                    )
                    assert pair[0] == pair[1]
                    assert len(served.steps()) == 2
                    fresh = await ask(client, served, [user("go")])
                steps = served.steps()
        assert fresh["content"] == "another"
        assert len(steps) == len(policy.requests) == 3

    in_time(play)


def test_calls_at_once_that_go_on_from_one_answer_are_a_branch_each() -> None:
    async def play() -> None:
        with MockPolicy(Reply("answer"), latency=0.2) as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                await ask(client, served, [user("go")])
                so_far = [user("go"), assistant("answer")]
                await asyncio.gather(
                    ask(client, served, [*so_far, user("a")]), ask(client, served, [*so_far, user("b")])
                )
                steps = served.steps()
        assert sorted((s.branch, s.parent_step) for s in steps[1:]) == [(0, 0), (1, 0)]

    in_time(play)


def test_parallel_calls_that_come_back_one_by_one_are_one_answer_again() -> None:
    """Responses agents send each call with its result."""

    async def play() -> None:
        calls: Any = [("bash", {"command": "a"}), ("bash", {"command": "b"})]
        with MockPolicy(Reply(None, calls), Reply("done")) as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                tools: Any = [{"type": "function", "strict": False, **TOOL}]
                first = await client.responses.create(model="m", input="go", tools=tools)
                items: Any = [{"role": "user", "content": "go"}]
                for item in first.output:
                    made = item.model_dump(exclude_none=True)
                    items += [
                        made,
                        {"type": "function_call_output", "call_id": made["call_id"], "output": "ok"},
                    ]
                await client.responses.create(model="m", input=items, tools=tools)
                steps = served.steps()
        assert [(s.branch, s.parent_step) for s in steps] == [(0, None), (0, 0)]
        assert [m.role for m in steps[1].prompt_messages] == ["user", "assistant", "tool", "tool"]
        assert [m.role for m in steps[0].observations] == ["tool", "tool"]

    in_time(play)


def test_parallel_calls_are_told_apart_where_a_server_counts_them_anew_in_each_answer() -> None:
    class Counting(MockPolicy):
        def _answer(self, reply: Reply, body: dict[str, Any]) -> web.Response:
            made = json.loads(super()._answer(reply, body).body)  # type: ignore[arg-type]
            for number, call in enumerate(made["choices"][0]["message"]["tool_calls"] or []):
                call["id"] = f"call_{number}"
            return web.json_response(made)

    def commands(*names: str) -> Reply:
        return Reply(None, [("bash", {"command": name}) for name in names])

    async def play() -> None:
        with Counting(commands("a", "b"), commands("c", "d"), Reply("done")) as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                tools: Any = [{"type": "function", "strict": False, **TOOL}]
                items: Any = [{"role": "user", "content": "go"}]
                for _ in range(3):
                    answer = await client.responses.create(model="m", input=items, tools=tools)
                    for item in answer.output:
                        made: Any = item.model_dump(exclude_none=True)
                        items.append(made)
                        if item.type == "function_call":
                            output = {
                                "type": "function_call_output",
                                "call_id": made["call_id"],
                                "output": "ok",
                            }
                            items.append(output)
                steps = served.steps()
        assert [(s.branch, s.parent_step) for s in steps] == [(0, None), (0, 0), (0, 1)]
        prompt = steps[2].prompt_messages
        asked = [[json.loads(c.function.arguments)["command"] for c in m.tool_calls or []] for m in prompt]
        assert asked == [[], ["a", "b"], [], [], ["c", "d"], [], []]

    in_time(play)


def test_equal_calls_at_once_that_are_sent_again_have_an_answer_each() -> None:
    async def play() -> None:
        with MockPolicy(Reply("one"), Reply("two"), default=Reply("three")) as policy:
            policy.lets_through = 0
            async with (
                served_gateway(policy) as served,
                httpx.AsyncClient(trust_env=False, timeout=60) as client,
            ):
                broken = [asyncio.create_task(ask(client, served, [user("go")])) for _ in range(2)]
                await eventually(lambda: policy.in_flight == 2)
                for each in broken:
                    each.cancel()
                await asyncio.gather(*broken, return_exceptions=True)
                ((*calls,),) = served.gateway.application._retries._calls.values()
                await eventually(lambda: all(call.listeners == 0 for call in calls))
                policy.lets_through = None
                again = {"x-stainless-retry-count": "1"}
                said = [await ask(client, served, [user("go")], **again) for _ in range(2)]
                steps = served.steps()
        assert sorted(each["content"] for each in said) == ["one", "two"]
        assert len(steps) == 2

    in_time(play)


def test_other_tools_begin_a_branch() -> None:
    async def play() -> None:
        with MockPolicy(Reply("answer")) as policy:
            async with served_gateway(policy) as served, served.openai() as client:
                await client.chat.completions.create(model="m", messages=[user("go")], tools=TOOLS)  # type: ignore[arg-type]
                more: Any = [user("go"), assistant("answer"), user("now alone")]
                await client.chat.completions.create(model="m", messages=more)
                steps = served.steps()
        assert [(s.branch, s.parent_step, s.tools) for s in steps] == [(0, None, None), (1, 0, [])]

    in_time(play)
