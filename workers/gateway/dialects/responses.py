"""OpenAI's Responses, as Codex speaks it."""

import base64
import json
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import verifiers as vf
from verifiers.v1.dialects import ResponsesDialect as ResponsesWire

from workers.gateway.calls import CalledTool, ModelAnswer, ModelRequest, free_text_of
from workers.gateway.dialects.base import (
    FREE_TEXT,
    Dialect,
    event,
    refuse_unless,
    take,
    take_token_limit,
)
from workers.gateway.dialects.chat import openai_error
from workers.gateway.dialects.parts import IsTaken, always, check_parts
from workers.gateway.errors import GatewayError

_PARTS: dict[str, IsTaken] = {
    "input_text": always,
    "output_text": always,
    "refusal": always,
    "input_image": lambda part: bool(part.get("image_url")),
}
_ASSISTANT_ITEMS = ("reasoning", "function_call", "custom_tool_call")


class ResponsesDialect(Dialect):
    """`/v1/responses`, without state on the server: each request brings the whole conversation."""

    name: ClassVar = "responses"
    route: ClassVar = "/v1/responses"
    wire: ClassVar = ResponsesWire()

    def _read(self, body: dict[str, Any]) -> ModelRequest:
        for name in ("previous_response_id", "conversation"):
            refuse_unless(
                not body.get(name),
                lambda name=name: f"{name}: nothing is stored here; send the whole conversation as `input`",
            )
        refuse_unless(not body.get("background"), lambda: "background: answers are given at once only")
        items: Any = body.get("input")
        if isinstance(items, list):
            given = cast(list[Any], items)
            items = [_with_reasoning(item) for item in given if _is_known(item)]
            for index, item in enumerate(items):
                for name in ("content", "output"):
                    if item.get("type") != "reasoning":
                        check_parts(item.get(name), f"input[{index}].{name}", _PARTS)
        prompt, tools = self._parsed({**body, "input": items})
        offered: list[Any] = body.get("tools") or []
        custom: list[Any] = [tool for tool in offered if tool.get("type") == "custom"]
        tools += [
            vf.Tool(name=tool["name"], description=_described(tool), parameters=FREE_TEXT) for tool in custom
        ]
        sampling = take(body, "parallel_tool_calls")
        choice: Any = body.get("tool_choice")
        if choice is not None:
            sampling["tool_choice"] = _tool_choice(choice)
        sampling |= take_token_limit(body, "max_output_tokens")
        text: dict[str, Any] = body.get("text") or {}
        form: dict[str, Any] = text.get("format") or {}
        if form.get("type") == "json_schema":
            schema = {
                name: form[name] for name in ("name", "schema", "strict", "description") if name in form
            }
            sampling["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form.get("type") == "json_object":
            sampling["response_format"] = {"type": "json_object"}
        echoed = take(body, "instructions", "tools", "tool_choice", "parallel_tool_calls", "metadata")
        return ModelRequest(
            prompt,
            tools,
            stream=bool(body.get("stream")),
            sampling=sampling,
            custom_tools=frozenset(tool["name"] for tool in custom),
            options={"echoed": echoed},
        )

    def answer(self, request: ModelRequest, answer: ModelAnswer) -> dict[str, Any]:
        """A `response` object."""
        return _response(request, answer, _items(request, answer))

    def events(self, request: ModelRequest, answer: ModelAnswer) -> Iterator[bytes]:
        """`response.created`, the items one after the other, and `response.completed` or `.incomplete`."""
        number = 0

        def named(kind: str, **data: Any) -> bytes:
            nonlocal number
            number += 1
            return event({"type": kind, "sequence_number": number - 1, **data}, kind)

        begun = {**_response(request, answer, []), "status": "in_progress", "usage": None}
        begun["incomplete_details"] = None
        yield named("response.created", response=begun)
        yield named("response.in_progress", response=begun)
        items = _items(request, answer)
        for index, item in enumerate(items):
            place = {"output_index": index, "item_id": item["id"]}
            yield named("response.output_item.added", output_index=index, item=_begun(item))
            match item["type"]:
                case "message":
                    part = item["content"][0]
                    at = {**place, "content_index": 0}
                    yield named("response.content_part.added", **at, part={**part, "text": ""})
                    if part["text"]:
                        yield named("response.output_text.delta", **at, delta=part["text"], logprobs=[])
                    yield named("response.output_text.done", **at, text=part["text"], logprobs=[])
                    yield named("response.content_part.done", **at, part=part)
                case "reasoning":
                    part = item["summary"][0]
                    at = {**place, "summary_index": 0}
                    yield named("response.reasoning_summary_part.added", **at, part={**part, "text": ""})
                    yield named("response.reasoning_summary_text.delta", **at, delta=part["text"])
                    yield named("response.reasoning_summary_text.done", **at, text=part["text"])
                    yield named("response.reasoning_summary_part.done", **at, part=part)
                case "custom_tool_call":
                    yield named("response.custom_tool_call_input.delta", **place, delta=item["input"])
                    yield named("response.custom_tool_call_input.done", **place, input=item["input"])
                case _:
                    said = item["arguments"]
                    yield named("response.function_call_arguments.delta", **place, delta=said)
                    yield named("response.function_call_arguments.done", **place, arguments=said)
            yield named("response.output_item.done", output_index=index, item=item)
        whole = _response(request, answer, items)
        yield named(f"response.{whole['status']}", response=whole)

    def error(self, error: GatewayError) -> dict[str, Any]:
        """OpenAI's form."""
        return openai_error(error)

    def error_event(self, error: GatewayError) -> bytes:
        """A `response.failed`, which ends the stream."""
        said = openai_error(error)["error"]
        failed: dict[str, Any] = {
            "id": "resp_failed",
            "object": "response",
            "status": "failed",
            "output": [],
            "error": {"code": said["code"], "message": said["message"]},
        }
        return event({"type": "response.failed", "sequence_number": 0, "response": failed}, "response.failed")


def _tool_choice(choice: Any) -> Any:
    """A tool choice as chat completions have it."""
    if isinstance(choice, str):
        return choice
    named = cast(dict[str, Any], choice)
    if named.get("type") in ("function", "custom"):
        return {"type": "function", "function": {"name": named["name"]}}
    return "auto"


def _is_known(item: Any) -> bool:
    """Whether an item of the input is one that a policy can read: no word of a provider's own tools."""
    if not isinstance(item, dict):
        raise TypeError(f"an item of input is {type(item).__name__}, not an object")
    kind = cast(dict[str, Any], item).get("type")
    return kind in (None, "message", *_ASSISTANT_ITEMS, "function_call_output", "custom_tool_call_output")


def _with_reasoning(item: dict[str, Any]) -> dict[str, Any]:
    """A reasoning item with the text that was sent in it: agents give it back sealed only."""
    sealed = item.get("encrypted_content")
    if item.get("type") != "reasoning" or not isinstance(sealed, str):
        return item
    try:
        text = base64.b64decode(sealed, validate=True).decode()
    except ValueError:
        return item
    return {**item, "summary": [{"type": "summary_text", "text": text}], "content": None}


def _described(tool: dict[str, Any]) -> str:
    """A free-text tool's description, with the grammar that its input must follow."""
    form: dict[str, Any] = tool.get("format") or {}
    said = str(tool.get("description") or "")
    if form.get("type") == "grammar":
        said += f"\n\nThe input follows this grammar ({form.get('syntax')}):\n{form.get('definition')}"
    return said


def _items(request: ModelRequest, answer: ModelAnswer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.reasoning:
        items.append(
            {
                "id": f"rs_{answer.id}",
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": answer.reasoning}],
                "encrypted_content": base64.b64encode(answer.reasoning.encode()).decode(),
                "status": "completed",
            }
        )
    if answer.content or not answer.calls:
        items.append(
            {
                "id": f"msg_{answer.id}",
                "type": "message",
                "role": "assistant",
                "status": "incomplete" if answer.finish == "length" else "completed",
                "content": [
                    {"type": "output_text", "text": answer.content, "annotations": [], "logprobs": []}
                ],
            }
        )
    return [*items, *(_call(request, answer, place, call) for place, call in enumerate(answer.calls))]


def _call(request: ModelRequest, answer: ModelAnswer, place: int, call: CalledTool) -> dict[str, Any]:
    is_custom = call.name in request.custom_tools
    said = {"input": free_text_of(call.arguments)} if is_custom else {"arguments": call.arguments}
    return {
        "id": f"{'ctc' if is_custom else 'fc'}_{answer.id}_{place}",
        "type": "custom_tool_call" if is_custom else "function_call",
        "call_id": call.id,
        "name": call.name,
        **said,
        "status": "completed",
    }


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An item before anything of it was said."""
    nothing: dict[str, dict[str, Any]] = {"message": {"content": []}, "reasoning": {"summary": []}}
    empty = nothing.get(item["type"], {})
    if "arguments" in item:
        empty = {"arguments": ""}
    if "input" in item:
        empty = {"input": ""}
    return {**item, **empty, "status": "in_progress"}


def _response(request: ModelRequest, answer: ModelAnswer, items: list[dict[str, Any]]) -> dict[str, Any]:
    is_cut = answer.finish == "length"
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "model": answer.model,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "error": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "store": False,
        **json.loads(json.dumps(request.options.get("echoed") or {})),
        "output": items,
        "usage": {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answer.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }
