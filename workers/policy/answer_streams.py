"""A policy's answer that comes as a stream of events, though nobody asked for one."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from workers.errors import PolicyError
from workers.policy.answer_messages import excerpt


def join_stream(text: str) -> dict[str, Any]:
    """The completion that the chunks of a stream make.

    Raises:
        PolicyError: They make none.
    """
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    for chunk in _read_chunks(text):
        if chunk.get("error"):
            return chunk
        whole |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        for part in cast(list[dict[str, Any]], chunk.get("choices") or []):
            delta: dict[str, Any] = part.get("delta") or part.get("message") or {}
            for name, value in delta.items():
                if name == "tool_calls":
                    _join_calls(message.setdefault("tool_calls", []), value or [])
                elif isinstance(value, str) and name != "role":
                    message[name] = (message.get(name) or "") + value
                elif value is not None:
                    message[name] = value
            if isinstance(part.get("token_ids"), list):
                choice.setdefault("token_ids", []).extend(part["token_ids"])
            logprobs: Any = part.get("logprobs")
            if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
                choice.setdefault("logprobs", {"content": []})["content"].extend(logprobs["content"])
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
    if not message:
        raise PolicyError(f"it is a stream of events, and no message is in it: {excerpt(text)}")
    return {**whole, "choices": [{**choice, "message": message}]}


def _read_chunks(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if not data or data == "[DONE]":
            continue
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise PolicyError(
                f"it is a stream of events, one of which is no JSON: {excerpt(data)}"
            ) from error
        if isinstance(chunk, dict):
            yield cast(dict[str, Any], chunk)


def _join_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    """Adds the parts of calls to the calls so far.

    A part belongs to the call of its index, which some servers count from 1, and others give to all calls, so
    that only the ids tell them apart; without an index, a part that names no tool belongs to the last call.
    """
    for part in parts:
        function = cast(dict[str, Any], part.get("function") or {})
        name: Any = function.get("name") or ""
        found = _find_call(calls, part, bool(name))
        if found is None:
            found = {"index": part.get("index"), "id": None, "function": {"name": "", "arguments": ""}}
            calls.append(found)
        call: dict[str, Any] = found
        call["id"] = part.get("id") or call["id"]
        if name != call["function"]["name"]:  # some send it with each part
            call["function"]["name"] += name
        arguments: Any = function.get("arguments") or ""
        call["function"]["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _find_call(calls: list[dict[str, Any]], part: dict[str, Any], is_named: bool) -> dict[str, Any] | None:
    index, given = part.get("index"), part.get("id")
    if index is None:
        return calls[-1] if calls and not is_named and given in (None, calls[-1]["id"]) else None
    call = next((call for call in reversed(calls) if call["index"] == index), None)
    return None if call is not None and given and call["id"] and given != call["id"] else call
