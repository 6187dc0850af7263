"""A policy whose every answer a function of the request makes: any body, any status."""

import inspect
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.helpers.mock_policy import MockPolicy

Answer = Callable[[dict[str, Any]], Any]


class ScriptedPolicy(MockPolicy):
    """Like `MockPolicy`, with other answers.

    Args:
        answer: Gives, for a request's body, a body, or a status, a body and perhaps headers, or an awaitable
            of these.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        made: Any = self.answer(body)
        if inspect.isawaitable(made):
            made = await made
        status, said, *headers = made if isinstance(made, tuple) else (200, made)
        return web.json_response(said, status=status, headers=headers[0] if headers else None)


def message(content: Any, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A completion of one choice; `more` goes into the completion itself."""
    said = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls" if calls else "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    made = {"id": "c", "object": "chat.completion", "created": 1, "model": "mock"}
    return {**made, "choices": [choice], "usage": usage, **more}


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    """A tool call; arguments that are a text stand as they are."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}, **more}


def number_of(body: dict[str, Any]) -> int:
    """The number at the end of what the user has said last."""
    said = [each["content"] for each in body["messages"] if each["role"] == "user"]
    return int(said[-1].split()[-1])


def is_after_a_tool(body: dict[str, Any]) -> bool:
    """Whether the last message is a tool's."""
    return body["messages"][-1]["role"] == "tool"
