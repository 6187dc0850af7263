"""What a request for a chat completion is made of, and what is noted of it and of its answer."""

import json
from collections.abc import Mapping
from typing import Any, cast

from workers.environments.messages import to_record
from workers.environments.tool_schemas import drop_nulls
from workers.environments.tracing import EpisodeTrace, Exchange
from workers.records import Message


def request_body(
    messages: list[Any], model: str, sampling: dict[str, Any], tools: list[Any]
) -> dict[str, Any]:
    """The body of a request; `extra_body` wins over all else."""
    arguments = {name: value for name, value in sampling.items() if value is not None}
    if not tools:
        # OpenAI-compatible servers refuse a tool choice where there are no tools to choose from.
        arguments.pop("tool_choice", None)
    if "modalities" not in arguments and any(_has_audio(message) for message in messages):
        arguments["modalities"] = ["text"]
    extra: dict[str, Any] = arguments.pop("extra_body", None) or {}
    body = {"model": model, "messages": messages, **arguments, **extra}
    return {**body, "tools": tools} if tools else body


def plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as it is sent: a copy, without the nulls that verifiers and Arrow have put into it."""
    plain = {name: value for name, value in message.items() if value is not None}
    if isinstance(plain.get("content"), list):
        plain["content"] = drop_nulls(plain["content"])
    if "content" not in plain and not plain.get("tool_calls"):
        plain["content"] = ""
    return plain


def with_json_arguments(messages: list[Any]) -> list[Any] | None:
    """The messages, with no arguments in calls whose arguments are no JSON object; None if all are."""
    calls: list[Any] = [call for message in messages for call in message.get("tool_calls") or ()]
    if all(_is_json_object(call["function"]["arguments"]) for call in calls):
        return None
    return [
        {**message, "tool_calls": [_mend_arguments(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _mend_arguments(call: Any) -> Any:
    function = call["function"]
    if _is_json_object(function["arguments"]):
        return call
    return {**call, "function": {**function, "arguments": "{}"}}


def _is_json_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError, RecursionError):
        return False


def _has_audio(message: Mapping[str, Any]) -> bool:
    content: Any = message.get("content")
    if not isinstance(content, list):
        return False
    parts = cast(list[Any], content)
    given = [cast(Mapping[str, Any], part) for part in parts if isinstance(part, Mapping)]
    return any(str(part.get("type")).startswith("input_audio") for part in given)


def note_exchange(trace: EpisodeTrace, response: Any, sent: list[Any], no_logprobs: str | None) -> None:
    """Notes a turn as it is now; what was noted of the turn before is used again where it is the same."""
    before = trace.last_sent
    prompt: list[Message] = []
    for index, message in enumerate(sent):
        same = index < len(before) and before[index][0] == message
        prompt.append(before[index][1] if same else to_record(message))
    trace.last_sent = list(zip(sent, prompt, strict=True))
    said: Any = response.message
    calls: list[Any] = said.tool_calls or []
    action = to_record(
        {
            "role": "assistant",
            "content": said.content,
            "reasoning_content": said.reasoning_content,
            "tool_calls": [call.model_dump() for call in calls],
        }
    )
    trace.exchanges[id(response)] = Exchange(response, prompt, action, no_logprobs)
