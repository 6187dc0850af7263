"""What a server answers to a request for a chat completion, read as far as its meaning is clear."""

import html
import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import httpx
import openai
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from workers.environments.sendable import clean_value
from workers.errors import PolicyError
from workers.policy.answer_messages import excerpt, read_message
from workers.policy.answer_streams import join_stream
from workers.policy.refusals import AnsweredError

_FINISH_REASON_WORDS = {
    "stop": "stop eos eos_token end end_turn stop_sequence stop_str stop_word stop_token stop_criteria "
    "complete completed done finish finished success normal malformed_function_call",
    "length": "length max_length max_tokens max_output_tokens max_new_tokens max_completion_tokens "
    "model_length token_limit limit truncated context_length model_context_window_exceeded incomplete "
    "repetition",
    "tool_calls": "tool_calls tool_call tool_use function_call function_calls tool",
    "content_filter": "content_filter content_filtered safety refusal recitation blocklist "
    "prohibited_content spii guardrail_intervened guardrails sensitive language",
    "error": "abort aborted cancel cancelled canceled error network_error insufficient_system_resource "
    "timeout server_error engine_error failed",
}
"""OpenAI's word for a finish reason, and what other servers say for it. `error`: they broke it off."""
_FINISH_REASON_OF = {word: reason for reason, words in _FINISH_REASON_WORDS.items() for word in words.split()}
_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "overloaded_error": 529,
    "overloaded": 503,
    "unavailable": 503,
    "insufficient_quota": 429,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
}


def read_completion(answer: httpx.Response, limit: int | None = None) -> ChatCompletion:
    """The chat completion that an answer with status 200 holds.

    One as OpenAI documents it, which most are, is read in one pass.

    Args:
        answer: What the server sent.
        limit: Most tokens that were to be sampled: what a missing finish reason is told by.

    Raises:
        openai.APIStatusError: It is an error, which the server sent with status 200.
        PolicyError: It is no chat completion; the message says what it is instead.
    """
    try:
        completion = ChatCompletion.model_validate_json(answer.content)
    except ValidationError:
        return _read_odd_completion(answer, limit)
    return completion if _is_plain(completion) else _read_odd_completion(answer, limit)


def _is_plain(completion: ChatCompletion) -> bool:
    """Whether nothing is left to make out."""
    if len(completion.choices) != 1 or (completion.model_extra or {}).get("error"):
        return False
    for holder, name in ((completion, "prompt_token_ids"), (completion.choices[0], "token_ids")):
        ids: Any = (holder.model_extra or {}).get(name)
        if ids is not None and not (isinstance(ids, list) and set(map(type, cast(list[Any], ids))) <= {int}):
            return False
    message = completion.choices[0].message
    if message.function_call is not None:
        return False
    seen: set[str] = set()
    for call in message.tool_calls or []:
        if call.type != "function" or not call.id or call.id in seen or not call.function.arguments.strip():
            return False
        seen.add(call.id)
    return True


def _read_odd_completion(answer: httpx.Response, limit: int | None = None) -> ChatCompletion:
    body = _read_body(answer)
    failure = _find_error(body)
    if failure is not None:
        raise status_error(failure, answer)
    given: Any = body.get("choices")
    choices = cast(list[Any], [given] if isinstance(given, Mapping) else given)
    if not isinstance(given, Mapping | list) or not choices:
        raise PolicyError(f"it has no choice: {excerpt(json.dumps(body, default=str))}")
    usage = _read_usage(body.get("usage"))
    made: dict[str, Any] = {
        "id": _error_text(body.get("id")),
        "object": "chat.completion",
        "created": body["created"] if _is_count(body.get("created")) else 0,
        "model": _error_text(body.get("model")),
        "usage": usage,
        "prompt_token_ids": _read_ids(body.get("prompt_token_ids")),
    }
    read = [_read_choice(choice, index, usage, limit) for index, choice in enumerate(choices)]
    made["choices"] = _join_parts(read)
    if made["prompt_token_ids"] is None and len(choices) == 1 and isinstance(choices[0], Mapping):
        made["prompt_token_ids"] = _read_ids(cast(Any, choices[0]).get("prompt_token_ids"))
    try:
        return ChatCompletion.model_validate(made)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise PolicyError(f"its {where} is not what it should be: {first['msg']}") from error


def _join_parts(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One choice, where several are parts of one: servers of Claude put the text and each call into its own.

    Several answers, each with a text of its own or none with a call, stay as they are.
    """
    messages: list[dict[str, Any]] = [choice["message"] for choice in choices]
    texts = [message["content"] for message in messages if message.get("content")]
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    if len(choices) < 2 or len(texts) > 1 or not calls or not all(map(_says_something, messages)):
        return choices
    whole = messages[0] | {"content": texts[0] if texts else None, "tool_calls": calls}
    reasons = [choice["finish_reason"] for choice in choices]
    reason = next((reason for reason in reasons if reason in ("length", "content_filter")), "tool_calls")
    joined = {**choices[0], "message": whole, "finish_reason": reason, "logprobs": None}
    joined.pop("token_ids", None)  # of a part only
    return [joined]


def _says_something(message: Mapping[str, Any]) -> bool:
    return bool(message.get("content") or message.get("tool_calls"))


def status_error(failure: Mapping[str, Any], answer: httpx.Response) -> openai.APIStatusError:
    """An error that came with status 200, as the package words one that has a status of its own."""
    message = _error_text(failure.get("message")) or excerpt(json.dumps(failure, default=str))
    status = 500
    for name in ("code", "status", "status_code", "type"):
        value: Any = failure.get(name)
        number = int(value) if isinstance(value, int | str) and str(value).isdecimal() else None
        if number is not None and 400 <= number < 600:
            status = number
            break
        if isinstance(value, str) and value.lower() in _STATUS_OF_CODE:
            status = _STATUS_OF_CODE[value.lower()]
            break
    request = httpx.Request("POST", _url_of(answer))
    headers = [(k, v) for k, v in answer.headers.multi_items() if k.lower() not in _BODY_HEADERS]
    body = {"error": dict(failure)}
    response = httpx.Response(status, headers=headers, json=body, request=request)
    return AnsweredError(message, response=cast(Any, response), body=body)


_BODY_HEADERS = ("content-length", "content-encoding", "content-type", "transfer-encoding")


def _url_of(answer: httpx.Response) -> str:
    try:
        return str(answer.request.url)
    except RuntimeError:
        return "http://policy"


def page_title(text: str) -> str | None:
    """What a web page says of itself; None if the text is no web page."""
    if not re.match(r"\s*(<!doctype html|<html|<\?xml|<head|<body|<h1|<center|<title)", text, re.IGNORECASE):
        return None
    found = re.search(r"<(title|h1)[^>]*>(.*?)</\1>", text, re.IGNORECASE | re.DOTALL)
    said = re.sub(r"<[^>]+>", " ", found.group(2) if found else text)
    return excerpt(html.unescape(" ".join(said.split())))


def _read_body(answer: httpx.Response) -> dict[str, Any]:
    text = answer.content.decode("utf-8-sig", "replace").strip()
    if not text:
        raise PolicyError("it is empty")
    title = page_title(text)
    if title is not None:
        raise PolicyError(f"it is a web page, {title!r}: is policy.base_url the API's root?")
    if text.startswith(("data:", "event:", ":", "id:")):
        return join_stream(text)
    try:
        body = json.loads(text)
    except ValueError as error:
        raise PolicyError(f"it is no JSON ({error}): {excerpt(text)}") from error
    if isinstance(body, list) and len(cast(list[Any], body)) == 1:  # Gemini's errors
        body = cast(list[Any], body)[0]
    if not isinstance(body, dict):
        raise PolicyError(f"it is JSON, and no object: {excerpt(text)}")
    return clean_value(cast(dict[str, Any], body))  # half a surrogate is no text to pydantic


def _find_error(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The error that an answer is, or that took the place of its only choice."""
    choices: Any = body.get("choices")
    error: Any = body.get("error")
    if not choices:
        is_error = body.get("object") == "error" or body.get("type") == "error"
        if not error and (is_error or "detail" in body or ("message" in body and "code" in body)):
            error = body.get("detail") or body
        if not error and isinstance(body.get("errors"), list) and body["errors"]:
            error = body["errors"][0]
    elif not error and isinstance(choices, list) and isinstance(choices[0], Mapping):
        error = cast(Mapping[str, Any], choices[0]).get("error")
    if not error:
        return None
    return cast(Mapping[str, Any], error) if isinstance(error, Mapping) else {"message": _error_text(error)}


def _read_choice(
    choice: Any, index: int, usage: Mapping[str, int] | None, limit: int | None
) -> dict[str, Any]:
    if not isinstance(choice, Mapping):
        raise PolicyError(f"its choice is no object: {excerpt(json.dumps(choice, default=str))}")
    fields = cast(Mapping[str, Any], choice)
    message: Any = fields.get("message") or fields.get("delta")
    if isinstance(message, str) or message is None:
        text = message if message is not None else fields.get("text")
        if text is None:
            raise PolicyError(f"its choice has no message: {excerpt(json.dumps(choice, default=str))}")
        message = {"content": text}
    if not isinstance(message, Mapping):
        raise PolicyError(f"its message is no object: {excerpt(json.dumps(message, default=str))}")
    read = read_message(cast(Mapping[str, Any], message))
    reason: Any = (
        fields.get("finish_reason") or fields.get("finish_details") or fields.get("native_finish_reason")
    )
    made: dict[str, Any] = {
        "index": index,
        "message": read,
        "finish_reason": _read_finish_reason(reason, "tool_calls" in read, usage, limit),
        "logprobs": _read_logprobs(fields.get("logprobs")),
    }
    for name in ("token_ids", "output_token_ids", "completion_token_ids"):
        if name in fields:
            made["token_ids"] = _read_ids(fields[name])
            break
    if "routed_experts" in fields:
        made["routed_experts"] = fields["routed_experts"]
    return made


def _read_finish_reason(
    reason: Any, has_calls: bool, usage: Mapping[str, int] | None, limit: int | None
) -> str:
    """OpenAI's word for a reason.

    Raises:
        PolicyError: The server broke the answer off.
    """
    if isinstance(reason, Mapping):
        reason = cast(Mapping[str, Any], reason).get("type")
    word = str(reason or "").lower().replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
    known = _FINISH_REASON_OF.get(word)
    if known == "error":
        raise PolicyError(f"the server broke it off: its finish reason is {reason!r}")
    if known == "tool_calls" and not has_calls:
        return "stop"
    if known is not None:
        return known
    if has_calls:
        return "tool_calls"
    return (
        "length"
        if limit is not None and usage is not None and usage["completion_tokens"] >= limit
        else "stop"
    )


def _read_usage(usage: Any) -> dict[str, int] | None:
    """Counts of tokens, where both are told."""
    if not isinstance(usage, Mapping):
        return None
    fields = cast(Mapping[str, Any], usage)
    prompt = _read_count(fields, "prompt_tokens", "input_tokens", "prompt_token_count")
    completion = _read_count(fields, "completion_tokens", "output_tokens", "candidates_token_count")
    total = _read_count(fields, "total_tokens")
    if completion is None and total is not None and prompt is not None:
        completion = total - prompt
    if prompt is None and total is not None and completion is not None:
        prompt = total - completion
    if prompt is None or completion is None or prompt < 0 or completion < 0:
        return None
    made: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion if total is None else total,
    }
    details: Any = fields.get("completion_tokens_details")
    if isinstance(details, Mapping):
        reasoning = _read_count(cast(Mapping[str, Any], details), "reasoning_tokens")
        if reasoning is not None:
            made["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    cached = read_cached(fields)
    if cached is not None:
        made["prompt_tokens_details"] = {"cached_tokens": min(cached, prompt)}
    return made


def read_cached(usage: Mapping[str, Any]) -> int | None:
    """Tokens of the prompt that the server had in its cache; None where it does not say."""
    for name in ("prompt_tokens_details", "input_tokens_details"):
        details: Any = usage.get(name)
        if isinstance(details, Mapping):
            cached = _read_count(cast(Mapping[str, Any], details), "cached_tokens")
            if cached is not None and cached >= 0:
                return cached
    return _read_count(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens")


def _read_count(fields: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value: Any = fields.get(name)
        if _is_count(value):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str) and value.strip().isdecimal():
            return int(value)
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_ids(ids: Any) -> list[int] | None:
    if not isinstance(ids, list):
        return None
    values = cast(list[Any], ids)
    return values if all(_is_count(value) and value >= 0 for value in values) else None


def _read_logprobs(logprobs: Any) -> dict[str, Any] | None:
    """OpenAI's shape for them. One that is no number is NaN here, for `find_unusable_logprobs` to name."""
    if isinstance(logprobs, Mapping):
        fields = cast(Mapping[str, Any], logprobs)
        content: Any = fields.get("content")
        if content is None and isinstance(
            fields.get("token_logprobs"), list
        ):  # the completions route's shape
            content = [{"logprob": value} for value in cast(list[Any], fields["token_logprobs"])]
    else:
        content = logprobs
    if not isinstance(content, list):
        return None
    return {"content": [_read_logprob(entry) for entry in cast(list[Any], content)]}


def _read_logprob(entry: Any) -> dict[str, Any]:
    value: Any = cast(Mapping[str, Any], entry).get("logprob") if isinstance(entry, Mapping) else entry
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"token": "", "logprob": float(value) if number else math.nan, "bytes": None, "top_logprobs": []}


def find_unusable_logprobs(ids: list[int], logprobs: list[float]) -> str | None:
    """Why log-probabilities cannot be those of the tokens beside them; None if they can."""
    if len(logprobs) != len(ids):
        return f"the policy sent {len(logprobs)} log-probabilities for {len(ids)} sampled tokens"
    for index, value in enumerate(logprobs):
        if not math.isfinite(value):
            return f"the policy sent {value} as the log-probability of sampled token {index}"
    return None


def _error_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else excerpt(json.dumps(value, default=str))
