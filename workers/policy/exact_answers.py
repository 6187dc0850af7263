# pyright: reportMissingTypeStubs=false
"""Reads what was sampled by token ids as chat completions would have it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx
from pydantic_core import from_json
from renderers import ToolCallParseStatus

from workers.errors import PolicyError
from workers.policy.answers import read_cached
from workers.policy.sampling_keys import ExactRequest
from workers.policy.template_renderer import TemplateRenderer, cut_at_stop


def read_answer(
    renderer: Any, answer: dict[str, Any], tools: Sequence[Any], asked: ExactRequest
) -> dict[str, Any]:
    """An answer of verifiers' renderer client, with the content that a chat completion would have.

    Neither the token that ended the turn, whichever it was, nor the stop string that did is part of the
    content; nor are special tokens, where the parser of tool calls does not need them.

    Args:
        renderer: The renderer of the request.
        answer: The answer, with its sampled ids.
        tools: What was offered.
        asked: What the request asked for.

    Raises:
        PolicyError: The server broke it off.
    """
    if answer.get("finish_reason") in ("abort", "error"):
        raise PolicyError(f"the server broke it off: its finish reason is {answer['finish_reason']!r}")
    offered = list(tools) if asked.calls_tools else []
    ids = list(answer["completion_ids"])
    tokenizer: Any = renderer._tokenizer
    ended = answer.get("finish_reason") in ("stop", "tool_calls")
    if ids and ended and _ends_turn(renderer, tokenizer, ids, asked):
        ids.pop()
    if isinstance(renderer, TemplateRenderer):
        parsed = renderer.parse_response(
            ids,
            tools=offered or None,
            stop=asked.stop if ended else (),
            skip_special_tokens=asked.skip_special_tokens,
        )
        content, reasoning, calls = parsed.content, parsed.reasoning_content, parsed.tool_calls
    else:
        parsed = renderer.parse_response(ids, tools=list(tools) or None)
        content, reasoning, calls = parsed.content, parsed.reasoning_content, parsed.tool_calls
        if calls and not offered:
            content, calls = str(tokenizer.decode(ids, skip_special_tokens=True)), []
        if not offered and asked.skip_special_tokens is not False:
            for token in tokenizer.all_special_tokens:
                content = (content or "").replace(token, "")
        if ended:
            content = cut_at_stop(content or "", asked.stop)
            reasoning = cut_at_stop(reasoning, asked.stop) if reasoning else reasoning
    called = any(call.status == ToolCallParseStatus.OK for call in calls or [])
    finish = ("tool_calls" if called else "stop") if ended else answer.get("finish_reason")
    if finish == "repetition":  # vLLM's word where `repetition_detection` has cut a turn off
        finish = "length"
    return {
        **answer,
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": calls,
        "finish_reason": finish,
    }


def read_cached_tokens(answer: httpx.Response) -> int | None:
    """Tokens of the prompt that the engine had in its cache; None where it does not say."""
    if b"cached" not in answer.content:
        return None
    try:
        body: Any = from_json(answer.content)
    except ValueError:
        return None
    usage: Any = cast(Mapping[str, Any], body).get("usage") if isinstance(body, Mapping) else None
    return read_cached(cast(Mapping[str, Any], usage)) if isinstance(usage, Mapping) else None


def _ends_turn(renderer: Any, tokenizer: Any, ids: list[int], asked: ExactRequest) -> bool:
    """Whether the last id is what ended a turn.

    A model may have end tokens of which its tokenizer says nothing; but where no stop string ended a turn,
    its last token did.
    """
    if ids[-1] in renderer.get_stop_token_ids():
        return True
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    if asked.params.get("stop") and any(each in text for each in _stop_texts(asked.params["stop"])):
        return False
    return ids[-1] in tokenizer.all_special_ids


def _stop_texts(stop: Any) -> list[str]:
    return [stop] if isinstance(stop, str) else [str(each) for each in stop]
