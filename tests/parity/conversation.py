"""A conversation in one form, whichever runtime it comes from."""

import json
import re
from ast import literal_eval
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_CLOCK = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d{1,6}")
"""A time that a tool has read off the clock: AgentDojo's data has no fractions of seconds."""


def timeless(text: str) -> str:
    """A text with what was read off the clock taken out of it."""
    return _CLOCK.sub("now", text)


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    arguments: Any


@dataclass(frozen=True)
class Message:
    role: str
    content: str | None
    calls: tuple[ToolCall, ...] = ()
    answers: str | None = None

    def plain(self) -> list[Any]:
        calls = [[call.id, call.name, call.arguments] for call in self.calls]
        return [self.role, self.content, calls, self.answers]


def from_openai(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """The messages of a chat-completions request, as AgentDojo's `OpenAILLM` makes them."""
    return [
        Message(
            role="system" if message["role"] == "developer" else message["role"],
            content=_text(message.get("content")),
            calls=tuple(
                ToolCall(call["id"], call["function"]["name"], _arguments(call["function"]["arguments"]))
                for call in message.get("tool_calls") or ()
            ),
            answers=message.get("tool_call_id"),
        )
        for message in messages
    ]


def from_verifiers(messages: Iterable[Any]) -> list[Message]:
    return [
        Message(
            role=message.role,
            content=_text(message.content),
            calls=tuple(
                ToolCall(call.id, call.name, _arguments(call.arguments))
                for call in getattr(message, "tool_calls", None) or ()
            ),
            answers=getattr(message, "tool_call_id", None),
        )
        for message in messages
    ]


def _text(content: Any) -> str | None:
    if content is None:
        return None
    return timeless(content if isinstance(content, str) else "\n".join(part["text"] for part in content))


def _arguments(text: str) -> Any:
    """Arguments with lists that were written as text turned into lists.

    AgentDojo's executor turns them in the conversation itself; here what the policy wrote stays as it is.
    """
    try:
        parsed = json.loads(text)
    except ValueError:
        return text
    return {name: _list(value) for name, value in parsed.items()} if isinstance(parsed, dict) else parsed


def _list(value: Any) -> Any:
    if isinstance(value, str):
        try:
            found = literal_eval(value)
        except (ValueError, SyntaxError, TypeError):
            return value
        return found if isinstance(found, list) else value
    return value
