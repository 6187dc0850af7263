"""Code in a sandbox may ask its model for anything: no request fails the episode, to be played again."""

import json
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from tests.helpers.gateways import ServedGateway, served_gateway
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.tiny_tokenizer import END
from tests.workers.gateway.test_dialects import TOOL, in_time
from tests.workers.gateway.test_exact_branches import endpoint as exact_endpoint
from tests.workers.gateway.test_exact_branches import says, user
from workers.policy.chat_template import ChatTemplate
from workers.settings import PolicyEndpoint

USER: Any = [user("go")]


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def tool(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {**TOOL, **fields}}]


def choice(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


POISON: dict[str, dict[str, Any]] = {
    "half a surrogate pair in a description": {"tools": tool(description="\ud800")},
    "half a surrogate pair in a name": {"tools": tool(name="\udc00")},
    "half a surrogate pair in the name of a field": {"tools": tool(parameters={"\ud83d": {}})},
    "half a surrogate pair as a stop": {"stop": "\ud800"},
    "half a surrogate pair as a choice": {"tools": tool(), "tool_choice": choice("\ud800")},
    "a schema 400 levels deep": {"tools": tool(parameters=nested(200))},
    "a format 400 levels deep": {"response_format": {"type": "json_schema", "json_schema": nested(200)}},
    "a million values": {"metadata": [0] * 1_000_000},
    "no number": {"tools": tool(parameters={"type": "object", "minProperties": float("nan")})},
    "a number without end": {"tools": tool(parameters={"type": "object", "minProperties": 10**400})},
    "infinity": {"tools": tool(parameters={"type": "object", "minProperties": float("inf")})},
}


class Breaking(MockPolicy):
    """A server that breaks at one word, or hangs up at another, and answers all else."""

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if "hang up" in await request.text() and request.transport is not None:
            request.transport.abort()
        if "poison" in await request.text():
            self.requests.append({})
            return web.json_response({"error": {"message": "Internal Server Error"}}, status=500)
        return await super()._chat(request)


async def post(served: ServedGateway, client: httpx.AsyncClient, body: Any) -> httpx.Response:
    return await client.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {served.key}"},
    )


def test_a_body_that_cannot_be_sent_on_is_refused_or_mended() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                for what, fields in POISON.items():
                    answer = await post(served, client, {"messages": USER, **fields})
                    assert answer.status_code in (200, 400), (what, answer.text)
                    assert served.recorder.failure is None, what
                assert (await post(served, client, {"messages": USER})).status_code == 200

    in_time(play)


def test_what_the_policys_server_breaks_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.policy.endpoint.RETRIES", 0)

    async def play() -> None:
        with Breaking() as policy:
            async with served_gateway(policy) as served, served.openai(max_retries=0) as client:
                with pytest.raises(openai.BadRequestError, match="Internal Server Error"):
                    await client.chat.completions.create(model="m", messages=[user("poison")])  # type: ignore[list-item]
                assert served.recorder.failure is None
                await client.chat.completions.create(model="m", messages=USER)
                assert len(served.steps()) == served.recorder.limits.calls == 1
            asked = [[m["content"] for m in request.get("messages", [])] for request in policy.requests]
            twice: list[Any] = [[], []]  # as often as the client itself puts it
            assert asked == [*twice, ["Hello."], *twice, ["Hello."], ["go"]]
        with MockPolicy(Fault(status=500), Fault(status=500), Reply("hello"), Reply("again")) as policy:
            async with served_gateway(policy) as served, served.openai(max_retries=0) as client:
                answer = await client.chat.completions.create(model="m", messages=USER)
                assert answer.choices[0].message.content == "again"
                assert [step.action.content for step in served.steps()] == ["again"]

    in_time(play)


@pytest.mark.slow
def test_a_call_that_the_policys_server_hangs_up_at_is_refused() -> None:
    async def play() -> None:
        with Breaking() as policy:
            endpoint = PolicyEndpoint(
                kind="openai", model=policy.model, base_url=policy.base_url, request_timeout=1.0
            )
            async with served_gateway(policy, endpoint) as served, served.openai(max_retries=0) as client:
                with pytest.raises(openai.BadRequestError):
                    await client.chat.completions.create(model="m", messages=[user("hang up")])  # type: ignore[list-item]
                assert served.recorder.failure is None

    in_time(play)


def test_a_policy_that_answers_nothing_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.policy.endpoint.RETRIES", 0)

    async def play() -> None:
        for fault in (Fault(status=500), Fault(status=401), Fault(kind="garbage")):
            with MockPolicy(Reply(), default=fault) as policy:
                async with served_gateway(policy) as served, served.openai(max_retries=0) as client:
                    await client.chat.completions.create(model="m", messages=USER)
                    with pytest.raises(openai.InternalServerError):
                        await client.chat.completions.create(model="m", messages=[*USER, *USER])
                    assert served.recorder.failure is not None

    in_time(play)


def test_with_exact_tokens_what_cannot_go_on_exactly_begins_a_branch(template: ChatTemplate) -> None:
    replies = [says(template, f"said {number}{END}") for number in range(4)]

    async def play() -> None:
        with MockPolicy(*replies, default=says(template, "more" + END)) as policy:
            async with (
                served_gateway(policy, exact_endpoint(policy, template)) as served,
                httpx.AsyncClient(trust_env=False) as client,
            ):
                so_far = [*USER, {"role": "assistant", "content": "said 0"}]
                assert (await post(served, client, {"messages": USER})).status_code == 200
                for odd in (
                    [{"role": "system", "content": "in the middle"}, user("more")],
                    [user("a"), user("b")],
                    [{"role": "assistant", "content": "twice"}],
                    [{"role": "tool", "tool_call_id": "none", "content": "of no call"}],
                ):
                    answer = await post(served, client, {"messages": [*so_far, *odd]})
                    assert answer.status_code in (200, 400), answer.text
                    assert served.recorder.failure is None, odd
                steps = served.steps()
        assert all(step.parent_step == 0 for step in steps[1:])
        assert len({step.branch for step in steps[1:]}) == len(steps[1:])

    in_time(play)


def test_calls_that_fail_are_not_kept() -> None:
    async def play() -> None:
        with MockPolicy(default=Fault(status=400, message="no")) as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                for number in range(20):
                    answer = await post(served, client, {"messages": [user(f"{number}")]})
                    assert answer.status_code == 400
                    key = {"authorization": f"Bearer {served.key}"}
                    await client.get(f"{served.url}/v1/{number}", headers=key)
                kept = served.gateway.application._retries._calls
                assert not kept
                assert len(served.gateway.application.unknown_routes) < 20

    in_time(play)
