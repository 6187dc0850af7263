"""verifiers' messages as the records have them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from workers.environments.json_text import json_text
from workers.records import FunctionCall, Message, ToolCall


def to_record(message: Any) -> Message:
    """One message, be it one of verifiers' models or a plain dictionary."""
    fields: Mapping[str, Any] = message.model_dump() if isinstance(message, BaseModel) else message
    made: Sequence[Any] = fields.get("tool_calls") or []
    calls = [_tool_call(call) for call in made]
    return Message(
        role=fields["role"],
        content=_text(fields.get("content")),
        reasoning_content=fields.get("reasoning_content"),
        tool_calls=calls or None,
        tool_call_id=fields.get("tool_call_id"),
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
    fields: Mapping[str, Any] = call.model_dump() if isinstance(call, BaseModel) else call
    function = fields.get("function") or fields
    return ToolCall(
        id=fields.get("id") or "",
        function=FunctionCall(name=str(function["name"]), arguments=_arguments(function.get("arguments"))),
    )


def _arguments(arguments: Any) -> str:
    """Arguments as JSON text; few-shot examples hold them as objects, too."""
    return arguments if isinstance(arguments, str) else json_text({} if arguments is None else arguments)


def _text(content: str | Sequence[Any] | None) -> str | None:
    if content is None or isinstance(content, str):
        return content
    parts = [part.model_dump() if isinstance(part, BaseModel) else part for part in content]
    if all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        return "".join(str(part["text"]) for part in parts)
    return json_text(parts)
