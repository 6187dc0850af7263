"""A policy whose answers depend on the conversation alone, streamed or not: any runner gets the same."""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.helpers.mock_policy import Fault, MockPolicy, Reply


class ConversationPolicy(MockPolicy):
    """Answers a request by what is in it.

    Args:
        choose: What to answer to a request's body.
        latency: Seconds that an answer takes.
    """

    def __init__(self, choose: Callable[[dict[str, Any]], Reply | Fault], latency: float = 0.0) -> None:
        super().__init__(latency=latency)
        self._choose = choose

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.default = self._choose(body)
        answer = await super()._chat(request)
        if not body.get("stream") or answer.status != 200 or not isinstance(answer, web.Response):
            return answer
        return web.Response(body=_as_events(json.loads(answer.text or "")), content_type="text/event-stream")


def in_turn(*replies: Reply | Fault) -> Callable[[dict[str, Any]], Reply | Fault]:
    """Answers the nth turn since a user spoke last with the nth reply, and with the last one from then on."""

    def choose(body: dict[str, Any]) -> Reply | Fault:
        roles: list[str] = [message["role"] for message in body["messages"]]
        turn = roles[::-1][: roles[::-1].index("user")].count("assistant")
        return replies[min(turn, len(replies) - 1)]

    return choose


def _as_events(answer: dict[str, Any]) -> bytes:
    """A completion as the events of a stream."""
    [choice] = answer["choices"]
    message = choice["message"]
    delta = {name: value for name, value in message.items() if value is not None and name != "tool_calls"}
    if message["tool_calls"]:
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]
    head = {**answer, "object": "chat.completion.chunk", "usage": None}
    first = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    last = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    usage = {**head, "choices": [], "usage": answer["usage"]}
    events = [json.dumps(event) for event in (first, last, usage)]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()
