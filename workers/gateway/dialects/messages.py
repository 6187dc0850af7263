"""Anthropic's Messages."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn, cast

from verifiers.v1.dialects import AnthropicDialect

from workers.gateway.calls import CalledTool, FinishReason, ModelAnswer, ModelRequest
from workers.gateway.dialects.base import Dialect, event, take, take_token_limit
from workers.gateway.dialects.parts import IsTaken, always, check_parts
from workers.gateway.errors import GatewayError, Refusal

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
_KINDS: dict[Refusal, str] = {
    "key": "authentication_error",
    "route": "not_found_error",
    "too_large": "request_too_large",
    "limit": "permission_error",
    "unavailable": "api_error",
}
_SIGNATURE = "kumite"
"""Signs thinking blocks: the package wants each to have a signature, and nobody checks it here."""


_SOURCES = {"url": "url", "base64": "data"}
"""What an image's source must have, by its type."""
_PARTS: dict[str, IsTaken] = {"text": always, "image": lambda block: _has_source(block)}


class MessagesDialect(Dialect):
    """`/v1/messages`, as the anthropic package speaks it."""

    name: ClassVar = "messages"
    route: ClassVar = "/v1/messages"
    wire: ClassVar = AnthropicDialect()

    def _read(self, body: dict[str, Any]) -> ModelRequest:
        check_parts(body.get("system"), "system", _PARTS)
        messages: list[Any] = body.get("messages") or []
        for index, message in enumerate(messages):
            if message.get("role") != "assistant":
                _check_blocks(message.get("content"), f"messages[{index}].content")
        prompt, tools = self._parsed(body)
        sampling: dict[str, Any] = {}
        choice: dict[str, Any] = body.get("tool_choice") or {}
        match choice.get("type"):
            case "any":
                sampling["tool_choice"] = "required"
            case "none":
                sampling["tool_choice"] = "none"
            case "tool":
                sampling["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
            case _:
                pass
        if choice.get("disable_parallel_tool_use"):
            sampling["parallel_tool_calls"] = False
        if body.get("stop_sequences"):
            sampling["stop"] = list(body["stop_sequences"])
        sampling |= take_token_limit(body, "max_tokens")
        return ModelRequest(
            prompt, tools, stream=bool(body.get("stream")), sampling=sampling, options=take(body, "model")
        )

    def answer(self, request: ModelRequest, answer: ModelAnswer) -> dict[str, Any]:
        """A `message`."""
        return {
            **_head(answer),
            "content": _blocks(answer),
            "stop_reason": _STOP_REASONS[answer.finish],
            "usage": _usage(answer),
        }

    def events(self, request: ModelRequest, answer: ModelAnswer) -> Iterator[bytes]:
        """`message_start`, the content blocks, `message_delta` and `message_stop`."""

        def named(kind: str, **data: Any) -> bytes:
            return event({"type": kind, **data}, kind)

        usage = _usage(answer)
        begun: dict[str, Any] = {**_head(answer), "content": [], "usage": {**usage, "output_tokens": 0}}
        yield named("message_start", message=begun)
        for index, block in enumerate(_blocks(answer)):
            empty, deltas = _streamed(block)
            yield named("content_block_start", index=index, content_block=empty)
            for delta in deltas:
                yield named("content_block_delta", index=index, delta=delta)
            yield named("content_block_stop", index=index)
        delta = {"stop_reason": _STOP_REASONS[answer.finish], "stop_sequence": None}
        yield named("message_delta", delta=delta, usage=usage)
        yield named("message_stop")

    def error(self, error: GatewayError) -> dict[str, Any]:
        """Anthropic's form."""
        message = error.message
        if error.kind == "overlong":
            message = f"prompt is too long: {message}"  # by these words agents know to shorten theirs
        kind = _KINDS.get(error.kind, "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def error_event(self, error: GatewayError) -> bytes:
        """An `error` event."""
        return event(self.error(error), "error")

    def keep_alive(self) -> bytes:
        """Anthropic's own `ping`."""
        return event({"type": "ping"}, "ping")


def _check_blocks(content: Any, where: str) -> None:
    """Sees that what a user's message holds can be given to the policy, results of tools included."""
    check_parts(content, where, {**_PARTS, "tool_result": always})
    blocks = cast("list[dict[str, Any]]", content if isinstance(content, list) else [])
    for index, block in enumerate(blocks):
        if block["type"] == "tool_result":
            check_parts(block.get("content"), f"{where}[{index}].content", _PARTS)


def _has_source(block: dict[str, Any]) -> bool:
    given: Any = block.get("source")
    source = cast("dict[str, Any]", given if isinstance(given, dict) else {})
    return bool(source.get(_SOURCES.get(source.get("type", ""), "")))


def _head(answer: ModelAnswer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(answer: ModelAnswer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": _SIGNATURE})
    if answer.content:
        blocks.append({"type": "text", "text": answer.content})
    return [*blocks, *map(_call, answer.calls)]


def _call(call: CalledTool) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object that Anthropic's form wants; what is none, under a name for that."""
    try:
        given: Any = json.loads(arguments, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        given = None
    return cast(dict[str, Any], given) if isinstance(given, dict) else {"invalid_json": arguments}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _streamed(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and what is added to it."""
    match block["type"]:
        case "thinking":
            return (
                {"type": "thinking", "thinking": "", "signature": ""},
                [
                    {"type": "thinking_delta", "thinking": block["thinking"]},
                    {"type": "signature_delta", "signature": block["signature"]},
                ],
            )
        case "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        case _:
            said = json.dumps(block["input"], ensure_ascii=False)
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": said}]


def _usage(answer: ModelAnswer) -> dict[str, Any]:
    return {
        "input_tokens": answer.prompt_tokens,
        "output_tokens": answer.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
