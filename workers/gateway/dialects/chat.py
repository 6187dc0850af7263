"""OpenAI's chat completions."""

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import verifiers as vf
from verifiers.v1.dialects import ChatDialect as ChatWire

from workers.gateway.calls import CalledTool, ModelAnswer, ModelRequest, free_text_of
from workers.gateway.dialects.base import (
    FREE_TEXT,
    Dialect,
    event,
    refuse_unless,
    take,
    take_token_limit,
)
from workers.gateway.dialects.parts import IsTaken, always, check_parts
from workers.gateway.errors import GatewayError, Refusal

CODES: dict[Refusal, str] = {
    "invalid": "invalid_request",
    "key": "invalid_api_key",
    "route": "not_found",
    "too_large": "request_too_large",
    "limit": "episode_limit_reached",
    "overlong": "context_length_exceeded",
    "refused": "policy_refused",
    "unavailable": "policy_unavailable",
}
"""OpenAI's `code` of each refusal; by that of an overlong prompt, agents know to shorten theirs."""


_PARTS: dict[str, IsTaken] = {
    "text": always,
    "refusal": always,
    "image_url": lambda part: _has_url(part.get("image_url")),
}


def openai_error(error: GatewayError) -> dict[str, Any]:
    """A refusal in the form of OpenAI's APIs."""
    kinds: dict[Refusal, str] = {
        "key": "authentication_error",
        "limit": "insufficient_quota",
        "unavailable": "server_error",
    }
    kind = kinds.get(error.kind, "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": CODES[error.kind]}}


class ChatDialect(Dialect):
    """`/v1/chat/completions`, as the openai package and nearly all agents speak it."""

    name: ClassVar = "chat"
    route: ClassVar = "/v1/chat/completions"
    wire: ClassVar = ChatWire()

    def _read(self, body: dict[str, Any]) -> ModelRequest:
        refuse_unless(
            body.get("n") in (None, 1), lambda: f"n: got {body['n']}; one choice a request is given"
        )
        messages: list[Any] = [
            {**message, "role": "system"} if message.get("role") == "developer" else message
            for message in cast("list[Any]", body.get("messages") or [])
        ]
        for index, message in enumerate(messages):
            check_parts(message.get("content"), f"messages[{index}].content", _PARTS)
        prompt, tools = self._parsed({**body, "messages": messages})
        offered: list[Any] = body.get("tools") or []
        custom: list[Any] = [tool["custom"] for tool in offered if tool.get("type") == "custom"]
        tools += [
            vf.Tool(name=tool["name"], description=tool.get("description") or "", parameters=FREE_TEXT)
            for tool in custom
        ]
        sampling = take(body, "tool_choice", "stop", "response_format", "parallel_tool_calls")
        choice: Any = sampling.get("tool_choice")
        if isinstance(choice, dict) and "custom" in choice:
            name = cast("dict[str, Any]", choice)["custom"]["name"]
            sampling["tool_choice"] = {"type": "function", "function": {"name": name}}
        sampling |= take_token_limit(body, "max_completion_tokens", "max_tokens")
        options: dict[str, Any] = body.get("stream_options") or {}
        return ModelRequest(
            prompt,
            tools,
            stream=bool(body.get("stream")),
            sampling=sampling,
            custom_tools=frozenset(tool["name"] for tool in custom),
            options={"include_usage": bool(options.get("include_usage"))},
        )

    def answer(self, request: ModelRequest, answer: ModelAnswer) -> dict[str, Any]:
        """A `chat.completion`."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.content or None, "refusal": None}
        if answer.content == "" and not answer.calls:
            message["content"] = ""
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [_call(request, call) for call in answer.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        return {**_head(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)}

    def events(self, request: ModelRequest, answer: ModelAnswer) -> Iterator[bytes]:
        """`chat.completion.chunk`s, then `[DONE]`."""
        head = _head(answer, "chat.completion.chunk")

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return event({**head, "choices": [choice]})

        yield chunk({"role": "assistant", "content": ""})
        if answer.reasoning:
            yield chunk({"reasoning_content": answer.reasoning})
        if answer.content:
            yield chunk({"content": answer.content})
        for index, call in enumerate(answer.calls):
            yield chunk({"tool_calls": [{"index": index, **_call(request, call)}]})
        yield chunk({}, answer.finish)
        if request.options.get("include_usage"):
            yield event({**head, "choices": [], "usage": _usage(answer)})
        yield b"data: [DONE]\n\n"

    def error(self, error: GatewayError) -> dict[str, Any]:
        """OpenAI's form."""
        return openai_error(error)


def _has_url(image: Any) -> bool:
    return isinstance(image, dict) and bool(cast("dict[str, Any]", image).get("url"))


def _head(answer: ModelAnswer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
    }


def _call(request: ModelRequest, call: CalledTool) -> dict[str, Any]:
    if call.name in request.custom_tools:
        custom = {"name": call.name, "input": free_text_of(call.arguments)}
        return {"id": call.id, "type": "custom", "custom": custom}
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _usage(answer: ModelAnswer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }
