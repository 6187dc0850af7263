"""What a refused request is refused for, and for how long: whether to wait, and until when."""

import datetime
import email.utils
import re
from collections.abc import Mapping
from typing import Literal

import openai

from workers.policy.overlong_prompts import is_overlong

Refusal = Literal["busy", "down", "lasting"]
"""`busy`: the server takes no more requests just now. `down`: it is not there, or not itself. `lasting`: it
will refuse this request, or this account, however often it is asked."""

_BUSY_STATUSES = frozenset({429, 498, 503, 529})
_DOWN_STATUSES = frozenset({502, 504, 520, 521, 522, 523, 524, 530})
"""From 520 on: Cloudflare's, before many providers, for a server behind it that is away."""
_LASTING_STATUSES = frozenset({400, 401, 402, 403, 404, 405, 411, 413, 415, 422})
_STATUSES_OF_THE_REQUEST = frozenset({400, 413, 415, 422})
"""Statuses that refuse what a request holds, not who sends it or where to."""
_DEAD_ENGINE = "enginedeaderror"
"""What vLLM says, with status 500, until Ray Serve has put another replica in its place: minutes later."""
_BUSY_WORDS = re.compile(
    r"overloaded|rate[ _-]?limit|too many (concurrent )?requests|server is (too )?busy|at capacity"
    r"|capacity exceeded|queue is full|throttl|try again later"
)
_EMPTY_ACCOUNT = re.compile(
    r"insufficient[_ ](quota|balance|credits?|funds)|billing_hard_limit|billing_not_active|access_terminated"
    r"|credit balance is too low|requires more credits|payment required|arrearage"
)
_EMPTY_PLAN = re.compile(r"(exceeded|out of) your current quota|check your plan and billing|quota exhausted")
_TRY_AGAIN = re.compile(
    r"(?:(?:try|retry) again (?:in|after)|retry (?:in|after)|retrydelay\W+|available in|wait(?: for)?)\s*"
    r"((?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?)(?![a-z])\s*)+)"
)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|us|µs|ns|milliseconds?|s|m|h|d)[a-z]*")
_SECONDS_OF_UNIT = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_MIN_EPOCH_SECONDS = 1e9
"""A number that is larger counts from 1970, in seconds,"""
_MIN_EPOCH_MILLISECONDS = 1e12
"""or, from here, in milliseconds."""


class AnsweredError(openai.APIStatusError):
    """An error that a server sent with status 200: its status is the one that the error names."""


def classify_refusal(error: openai.APIError) -> Refusal | None:
    """Classifies why a request failed, for what to do next. None: it may be tried a few times."""
    if isinstance(error, openai.APITimeoutError):
        return None
    if not isinstance(error, openai.APIStatusError):
        return "down" if isinstance(error, openai.APIConnectionError) else None
    said = f"{error.message} {_error_body(error)}".lower()
    status = error.status_code
    if status == 402 or _EMPTY_ACCOUNT.search(said):
        return "lasting"
    if status == 429 and _EMPTY_PLAN.search(said) and requested_wait(error) is None:
        # Gemini says the same of a quota per minute, and then when to come back.
        return "lasting"
    if status == 429 and is_overlong(status, _error_body(error)):
        return "lasting"
    if status in _BUSY_STATUSES:
        return "busy"
    if status in _DOWN_STATUSES or (status == 500 and _DEAD_ENGINE in said):
        # A gateway that answers for a provider which failed it once is itself there.
        return None if isinstance(error, AnsweredError) else "down"
    if status in (400, 403, 500) and _BUSY_WORDS.search(said) and "tool" not in said:
        return "busy"
    return "lasting" if status in _LASTING_STATUSES else None


def is_about_the_request(error: BaseException | None) -> bool:
    """Whether a server has refused what a request holds: another request may be answered."""
    if not isinstance(error, openai.APIStatusError) or error.status_code not in _STATUSES_OF_THE_REQUEST:
        return False
    return classify_refusal(error) == "lasting"


def requested_wait(error: openai.APIError) -> float | None:
    """Reads the seconds after which a server wants to be asked again; None if it does not say.

    It is said in `Retry-After` (seconds or a date), `retry-after-ms`, the words of the error, or the headers
    that tell when a rate limit is reset.
    """
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    stated = stated_wait(headers)
    if stated is not None:
        return stated
    found = _TRY_AGAIN.search(f"{error.message} {_error_body(error)}".lower())
    if found is not None:
        return _parse_duration(found.group(1))
    return _reset_wait(headers)


def stated_wait(headers: Mapping[str, str]) -> float | None:
    """What the headers that name a time to wait say, in seconds."""
    if (milliseconds := _parse_number(headers.get("retry-after-ms"))) is not None:
        return max(0.0, milliseconds / 1000)
    given = headers.get("retry-after")
    return None if given is None else _seconds_until(given, headers)


def _reset_wait(headers: Mapping[str, str]) -> float | None:
    """Until the limit is reset that is used up; where that is not told, until the first of them is."""
    waits: list[tuple[float, bool | None]] = []
    for name, value in headers.items():
        lower = name.lower()
        if "ratelimit" not in lower.replace("-limit", "limit") or "reset" not in lower:
            continue
        wait = _seconds_until(value, headers)
        if wait is not None:
            left = _parse_number(headers.get(lower.replace("reset", "remaining")))
            waits.append((wait, None if left is None else left <= 0))
    used_up = [wait for wait, is_used_up in waits if is_used_up]
    if used_up:
        return max(used_up)
    unknown = [wait for wait, is_used_up in waits if is_used_up is None]
    return min(unknown, default=None)


def _seconds_until(value: str, headers: Mapping[str, str]) -> float | None:
    """Seconds until a moment, in any of the forms that headers have."""
    value = value.strip()
    number = _parse_number(value)
    now = _parse_date(headers.get("date")) or datetime.datetime.now(datetime.UTC)
    if number is not None:
        if number > _MIN_EPOCH_SECONDS:
            return max(0.0, (number / 1000 if number > _MIN_EPOCH_MILLISECONDS else number) - now.timestamp())
        return max(0.0, number)
    moment = _parse_date(value)
    return _parse_duration(value.lower()) if moment is None else max(0.0, (moment - now).total_seconds())


def _parse_date(value: str | None) -> datetime.datetime | None:
    if value is None or not re.search(r"\d{4}", value):
        return None
    try:
        made = email.utils.parsedate_to_datetime(value)
    except ValueError:
        try:
            made = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    return made if made.tzinfo is not None else made.replace(tzinfo=datetime.UTC)


def _parse_duration(value: str) -> float | None:
    """Seconds of `1s`, `6m0s`, `250ms`, `1m 30 seconds`."""
    pieces = _DURATION_PART.findall(value)
    if not pieces:
        return None
    return sum(
        float(amount) * _SECONDS_OF_UNIT["ms" if unit.startswith("milli") else unit]
        for amount, unit in pieces
    )


def _parse_number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < float("inf") else None


def _error_body(error: openai.APIStatusError) -> str:
    return error.response.text[:4000]
