"""verifiers' messages as the records have them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

from workers.environments.json_text import json_text
from workers.records import FunctionCall, Message, ToolCall


def to_record(message: Any) -> Message:
    """One message, be it one of verifiers' models or a plain dictionary."""
    fields = _message_fields(message)
    made: Any = fields.get("tool_calls") or []
    calls = (
        [_tool_call(call) for call in cast(Sequence[Any], made)] if isinstance(made, (list, tuple)) else []
    )
    return Message(
        role=_as_text(fields.get("role")) or "user",
        content=_content_text(fields.get("content")),
        reasoning_content=_content_text(fields.get("reasoning_content")),
        tool_calls=calls or None,
        tool_call_id=_as_text(fields.get("tool_call_id")),
    )


def to_records(messages: Any) -> list[Message]:
    """A conversation; a bare string is a user's message."""
    if isinstance(messages, str):
        return [Message(role="user", content=messages)]
    conversation: Sequence[Any] = messages or []
    return [to_record(message) for message in conversation]


class Conversation:
    """The messages of one episode as records, each converted once.

    verifiers hands on the same messages from turn to turn, so that the prompts of an episode of n turns
    hold each of them up to n times.
    """

    def __init__(self) -> None:
        self._records: dict[int, tuple[Any, Message]] = {}

    def records(self, messages: Any) -> list[Message]:
        """Like `to_records`; what was converted before comes back as the same record."""
        if isinstance(messages, str):
            return to_records(messages)
        conversation: Sequence[Any] = messages or []
        return [self._record(message) for message in conversation]

    def _record(self, message: Any) -> Message:
        _, record = self._records.get(id(message), (None, None))
        if record is None:
            record = to_record(message)
            self._records[id(message)] = message, record  # the message too, for its id to stay its own
        return record


def _tool_call(call: Any) -> ToolCall:
    fields: Any = _message_fields(_read_saved_call(call))
    function = fields.get("function") or fields
    if not isinstance(function, Mapping):
        function = fields
    found = cast(Mapping[str, Any], function)
    arguments: Any = found.get("arguments")
    return ToolCall(
        id=_as_text(fields.get("id")) or "",
        function=FunctionCall(
            name=_as_text(found.get("name")) or "",
            arguments=arguments if isinstance(arguments, str) else json_text(arguments or {}),
        ),
    )


def _read_saved_call(call: Any) -> Any:
    """A call that is JSON text, as verifiers saves them, as what it says."""
    if isinstance(call, str):
        try:
            return json.loads(call)
        except ValueError:
            return {"name": call}
    return call


def _message_fields(value: Any) -> Mapping[str, Any]:
    """What a model or a dictionary holds; of anything else, its text as content."""
    if isinstance(value, BaseModel):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value)
    return {"content": value if isinstance(value, str) or value is None else str(value)}


def _as_text(value: Any) -> str | None:
    """Text as it is, and of anything else the text that it is as JSON."""
    if value is None:
        return None
    return value if isinstance(value, str) else json_text(value)


def _content_text(content: Any) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        return _as_text(content)
    made = cast(Sequence[Any], content)
    parts = [part if isinstance(part, str) else dict(_message_fields(part)) for part in made]
    if all(isinstance(part, str) or (part.get("type") == "text" and "text" in part) for part in parts):
        return "".join(_as_text(part if isinstance(part, str) else part["text"]) or "" for part in parts)
    return json_text(parts)
