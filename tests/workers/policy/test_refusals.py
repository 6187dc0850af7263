"""For how long a server wants to be left alone, in all the forms in which it says so."""

import email.utils
import json
import time
from typing import Any, cast

import httpx
import openai
import pytest

from workers.policy.refusals import classify_refusal, requested_wait


def refused(status: int, said: Any = "no", **headers: str) -> openai.APIStatusError:
    text = json.dumps({"error": {"message": said}}) if isinstance(said, str) else json.dumps(said)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx.Request("POST", "http://policy")
    response = httpx.Response(status, headers=named, text=text, request=request)
    # openai may be made for a copy of httpx, whose responses are the same.
    return openai.APIStatusError(str(said), response=cast(Any, response), body=None)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (429, "rate limit of 60 requests per minute reached", "busy"),
        (503, "no", "busy"),
        (529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, "busy"),
        (500, "The model is overloaded. Please try again later.", "busy"),
        (403, "API rate limit exceeded", "busy"),
        (502, "bad gateway", "down"),
        (521, "error code: 521", "down"),
        (524, "<html>A timeout occurred</html>", "down"),
        (500, "EngineDeadError", "down"),
        (429, {"error": {"code": "insufficient_quota", "message": "no"}}, "lasting"),
        (429, "You exceeded your current quota, please check your plan and billing details.", "lasting"),
        (429, "You exceeded your current quota, please check your plan. Please retry in 34.07s.", "busy"),
        (429, "Request too large for a in b on tokens per min (TPM): Limit 3000, Requested 4000.", "lasting"),
        (402, "Insufficient credits", "lasting"),
        (400, "Your credit balance is too low to access the API", "lasting"),
        (401, "wrong key", "lasting"),
        (500, "no", None),
        (408, "no", None),
    ],
)
def test_refusal_says_whether_waiting_helps(status: int, said: Any, kind: str | None) -> None:
    assert classify_refusal(refused(status, said)) == kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "250", "retry_after": "1"}, 0.25),
        ({"x_ratelimit_reset_requests": "1s"}, 1.0),
        ({"x_ratelimit_reset_requests": "6m0s"}, 360.0),
        ({"x_ratelimit_reset_tokens": "250ms"}, 0.25),
        ({"x_ratelimit_reset": "12"}, 12.0),
        ({"x_ratelimit_reset_tokens": "1s", "x_ratelimit_reset_requests": "10s"}, 1.0),
        (
            {
                "x_ratelimit_reset_tokens": "1s",
                "x_ratelimit_remaining_tokens": "90",
                "x_ratelimit_reset_requests": "10s",
                "x_ratelimit_remaining_requests": "0",
            },
            10.0,
        ),
        ({}, None),
        ({"retry_after": "soon"}, None),
    ],
)
def test_wait_is_read_from_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_wait(refused(429, **headers)) == seconds


def test_wait_until_a_moment_is_read_in_each_form() -> None:
    at = time.time() + 60
    forms = {
        "retry_after": email.utils.formatdate(at, usegmt=True),
        "x_ratelimit_reset": str(int(at)),
        "x_ratelimit_reset_requests": str(int(at * 1000)),
    }
    for name, value in forms.items():
        seconds = requested_wait(refused(429, **{name: value}))
        assert seconds is not None and 30 < seconds <= 61, (name, value, seconds)
    past = requested_wait(refused(429, retry_after=email.utils.formatdate(time.time() - 60, usegmt=True)))
    assert past == 0.0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Rate limit reached. Please try again in 1m30.5s. Visit the page.", 90.5),
        ("Please try again in 6ms.", 0.006),
        ("Please retry after 60 seconds.", 60.0),
        ({"error": {"message": "no", "details": [{"retryDelay": "34s"}]}}, 34.0),
    ],
)
def test_wait_is_read_from_the_words(said: Any, seconds: float) -> None:
    assert requested_wait(refused(429, said)) == seconds
