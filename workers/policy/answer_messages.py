"""The message of a policy's answer, from the shapes in which servers send one, in OpenAI's."""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, cast

from workers.errors import PolicyError

_EXCERPT_LENGTH = 300
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_REASONING_PARTS = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning_content"})


def read_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with text for its content, and tool calls that each have an id, a type and JSON text.

    Args:
        message: What a server sent; other keys of it stay as they are.

    Raises:
        PolicyError: A tool call in it names no tool.
    """
    read = {**message, "role": "assistant"}
    content, reasoning = _read_content(message.get("content"))
    for name in _REASONING_FIELDS:
        if name in message:
            reasoning = _text_of(message[name]) or reasoning
            del read[name]
    read["content"] = content
    if reasoning:
        read["reasoning_content"] = reasoning
    if not isinstance(message.get("refusal"), str):
        read.pop("refusal", None)
    calls = _read_calls(message)
    read.pop("function_call", None)
    read.pop("tool_calls", None)
    if calls:
        read["tool_calls"] = calls
    for name in ("annotations", "audio"):  # which the package checks, and nothing here reads
        read.pop(name, None)
    return read


def _read_content(content: Any) -> tuple[str | None, str | None]:
    """Text, and the reasoning that parts hold beside it."""
    if content is None or isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        return _text_of(content), None
    text: list[str] = []
    reasoning: list[str] = []
    for part in cast(list[Any], content):
        if isinstance(part, Mapping) and cast(Any, part).get("type") in _REASONING_PARTS:
            reasoning.append(_text_of(part))
        elif not isinstance(part, Mapping) or cast(Any, part).get("type") not in ("tool_use", "tool_call"):
            text.append(_text_of(part))
    return "".join(text) if text else None, "".join(reasoning) or None


def _text_of(value: Any) -> str:
    """The text in a part of a message: a string, an object with one of the usual keys, or a list of them."""
    match value:
        case None:
            return ""
        case str():
            return value
        case list():
            return "".join(_text_of(each) for each in cast(list[Any], value))
        case dict():
            fields = cast(dict[str, Any], value)
            for name in ("text", "content", "value", "refusal", "summary", *_REASONING_FIELDS):
                if fields.get(name) is not None:
                    return _text_of(fields[name])
            return "" if "type" in fields else json.dumps(fields)
        case _:
            return json.dumps(value)


def _read_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    made: Any = message.get("tool_calls")
    if isinstance(made, str):
        try:
            made = json.loads(made)
        except ValueError as error:
            raise PolicyError(f"its tool_calls are text, and no JSON: {made[:200]!r}") from error
    if not made and isinstance(message.get("function_call"), Mapping):
        made = [{"function": message["function_call"]}]
    if not made and isinstance(message.get("content"), list):
        parts = cast(list[Any], message["content"])
        made = cast(Any, [part for part in parts if isinstance(part, Mapping) and _is_call(cast(Any, part))])
    if isinstance(made, Mapping):
        made = cast(Any, [made])
    calls: list[dict[str, Any]] = []
    taken: set[str] = set()
    for call in cast(Sequence[Any], made or []):
        if call is None:
            continue
        read = _read_call(call)
        if read["id"] in taken:
            read["id"] = _make_call_id()
        taken.add(read["id"])
        calls.append(read)
    return calls


def _is_call(part: Any) -> bool:
    return part.get("type") in ("tool_use", "tool_call", "function_call")


def _read_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise PolicyError(f"a tool call is no object, but {json.dumps(call)[:200]}")
    fields = cast(Mapping[str, Any], call)
    inner: Any = fields.get("function")
    function = cast(Mapping[str, Any], inner) if isinstance(inner, Mapping) else fields
    name: Any = function.get("name") or (inner if isinstance(inner, str) else None)
    if not isinstance(name, str) or not name:
        raise PolicyError(f"a tool call names no tool: {json.dumps(call, default=str)[:200]}")
    arguments: Any = None
    for key in ("arguments", "input", "parameters", "args"):
        if function.get(key) is not None:
            arguments = function[key]
            break
    given: Any = fields.get("id") or fields.get("call_id") or fields.get("tool_call_id")
    return {
        "id": str(given) if given not in (None, "") else _make_call_id(),
        "type": "function",
        "function": {"name": name, "arguments": _arguments_text(arguments)},
    }


def _arguments_text(arguments: Any) -> str:
    """Arguments as the policy wrote them; a call without any has none."""
    if isinstance(arguments, str):
        return arguments if arguments.strip() else "{}"
    return "{}" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _make_call_id() -> str:
    """An id that no other call of an episode has: nine letters and digits, as Mistral's servers insist."""
    return uuid.uuid4().hex[:9]


def excerpt(text: str) -> str:
    """As much of a text as an error has room for."""
    return text if len(text) <= _EXCERPT_LENGTH else f"{text[:_EXCERPT_LENGTH]}…"
