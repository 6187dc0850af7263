"""One model call, whatever dialect it was made in: what the agent asks, and what the policy answers."""

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import verifiers as vf
from verifiers.legacy.types import Response

from workers.gateway.errors import GatewayError

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class ModelRequest:
    """A model call as an agent made it."""

    messages: list[Any]
    """The prompt: verifiers' messages."""
    tools: list[vf.Tool]
    """The functions that the policy may call. A tool that takes free text is one with one argument."""
    stream: bool = False
    """Whether the answer is to come as server-sent events."""
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the agent asks of sampling that a run leaves to it, as arguments of chat completions."""
    custom_tools: frozenset[str] = frozenset()
    """Names of those tools that take free text in the agent's dialect."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the dialect needs to word the answer."""


@dataclass(frozen=True)
class CalledTool:
    """One tool call of an answer."""

    id: str
    name: str
    arguments: str
    """JSON text, or what the policy wrote in its place."""


@dataclass(frozen=True)
class ModelAnswer:
    """A policy's answer to one model call."""

    model: str
    content: str
    reasoning: str
    calls: list[CalledTool]
    finish: FinishReason
    prompt_tokens: int
    completion_tokens: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:24])
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, response: Response) -> "ModelAnswer":
        """A policy client's answer."""
        said, usage = response.message, response.usage
        calls = [CalledTool(call.id, call.name, call.arguments) for call in said.tool_calls or []]
        finish = said.finish_reason or ("length" if said.is_truncated else "stop")
        return cls(
            model=response.model,
            content=text_of(said.content),
            reasoning=said.reasoning_content or "",
            calls=calls,
            finish="tool_calls" if calls and finish == "stop" else finish,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    parts: list[Any] = content or []
    return "".join(str(_field(part, "text") or "") for part in parts)


def _field(part: Any, name: str) -> Any:
    return part.get(name) if hasattr(part, "get") else getattr(part, name, None)


def has_pictures(messages: list[Any]) -> bool:
    """Whether a prompt, of verifiers' messages, holds a picture."""
    contents: list[Any] = [message.content for message in messages]
    return any(
        _field(part, "type") == "image_url"
        for content in contents
        if isinstance(content, list)
        for part in cast("list[Any]", content)
    )


def to_prompt(messages: list[Any]) -> list[Any]:
    """Messages of verifiers' `v1` dialects, as those of the clients that ask the policy.

    Raises:
        GatewayError: There is none, or one that is no message.
    """
    if not messages:
        raise GatewayError("invalid", "the request has no messages; give at least one")
    return [_message(message) for message in messages]


def _message(message: Any) -> Any:
    match message.role:
        case "system":
            return vf.SystemMessage(content=_content(message.content))
        case "tool":
            return vf.ToolMessage(tool_call_id=message.tool_call_id, content=_content(message.content))
        case "assistant":
            made: list[Any] = message.tool_calls or []
            calls = [vf.ToolCall(id=call.id, name=call.name, arguments=_arguments(call)) for call in made]
            content = message.content
            return vf.AssistantMessage(
                content="" if content is None and not calls else content,
                reasoning_content=message.reasoning_content,
                tool_calls=calls or None,
            )
        case _:
            return vf.UserMessage(content=_content(message.content))


def _arguments(call: Any) -> str:
    return free_text_arguments(call.arguments) if call.type == "custom" else call.arguments


def free_text_arguments(text: str) -> str:
    """The arguments of a function with which a policy calls a tool that takes free text."""
    return json.dumps({"input": text}, ensure_ascii=False)


def free_text_of(arguments: str) -> str:
    """The free text that a policy gave such a function; what it wrote, if that is something else."""
    try:
        given = json.loads(arguments)
        return str(given["input"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return arguments


def _content(content: Any) -> Any:
    """A message's content: text, or parts where some are no text."""
    if content is None or isinstance(content, str):
        return content or ""
    given: list[Any] = content
    parts: list[dict[str, Any]] = [part.model_dump() for part in given]
    if all(part["type"] == "text" for part in parts):
        return (
            "\n".join(part["text"] for part in parts)
            if len(parts) > 1
            else "".join(part["text"] for part in parts)
        )
    return parts
