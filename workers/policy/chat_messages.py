"""Messages as vLLM hands them to a chat template: the keys, their order, and the form of their content."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from workers.policy.content_format import ContentFormat


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], content_format: ContentFormat
) -> list[dict[str, Any]]:
    """What vLLM's `parse_chat_messages` makes of the messages of a request.

    Content that is null is an empty one. A call's arguments are an object, an empty one where they were
    none. The keys stand in the order of the OpenAI package's types, which a template may write out.

    Args:
        messages: In OpenAI's shape.
        content_format: What the template takes; see `detect_content_format`.
    """
    return [_prepare_message(message, content_format) for message in messages]


def as_system_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages for a template that knows no role `developer`: its messages are the system's.

    As in vLLM, several messages of the system's become one, which comes first.
    """
    renamed = [
        {name: value for name, value in message.items() if name != "tools"} | {"role": "system"}
        if message["role"] == "developer"
        else message
        for message in messages
    ]
    system = [message for message in renamed if message["role"] == "system"]
    if len(system) == 1 and renamed[0] is system[0]:
        return renamed
    texts = [text for message in system if (text := _join_content(message.get("content")))]
    others = [message for message in renamed if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(texts)}, *others]


def _prepare_message(message: Mapping[str, Any], content_format: ContentFormat) -> dict[str, Any]:
    role = message["role"]
    parts = _content_parts(message.get("content"))
    wrapped = content_format == "openai" and role != "tool"
    is_text = all(part.get("type") == "text" for part in parts)
    prepared: dict[str, Any] = {
        "role": role,
        "content": parts if wrapped or not is_text else _join_content(parts),
    }
    if role == "assistant":
        calls = cast("Sequence[Mapping[str, Any]] | None", message.get("tool_calls"))
        if calls:
            prepared["tool_calls"] = [_prepare_call(call) for call in calls]
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            prepared |= {"reasoning": reasoning, "reasoning_content": reasoning}
    elif role == "tool" and "tool_call_id" in message:
        prepared["tool_call_id"] = message["tool_call_id"]
    if isinstance(message.get("name"), str):
        prepared["name"] = message["name"]
    if role == "developer":
        prepared["tools"] = message.get("tools")
    return prepared


def _content_parts(content: Any) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "text", "text": part} if isinstance(part, str) else dict(part)
        for part in cast(Sequence[Any], content)
    ]


def _join_content(content: Any) -> str:
    texts = [str(part.get("text") or "") for part in _content_parts(content)]
    return "\n".join(text for text in texts if text)


def _prepare_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    known: dict[str, Any] = {
        "id": call.get("id"),
        "function": {"arguments": _arguments_object(function.get("arguments")), "name": function["name"]},
        "type": call.get("type", "function"),
    }
    return known if "id" in call else {name: value for name, value in known.items() if name != "id"}


def _arguments_object(arguments: Any) -> dict[str, Any]:
    """Arguments as an object; as in vLLM, those that are none are an empty one."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return {}
    return cast(dict[str, Any], arguments) if isinstance(arguments, dict) else {}
