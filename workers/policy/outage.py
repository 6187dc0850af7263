"""A policy that is down or busy for a while: its requests wait for it, and no episode is lost."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import openai

from workers.policy.refusals import classify_refusal, requested_wait, stated_wait
from workers.policy.request_pace import RequestPace

_T = TypeVar("_T")

_MIN_WAIT, _MAX_WAIT = 1.0, 15.0
"""Seconds between two looks at a policy that is down."""
_MAX_HINTED_WAIT = 60.0
"""Most seconds that are waited for a rate limit's reset at a time, which tells when all of it is back."""


async def retry_until_answered(
    ask: Callable[[], Awaitable[_T]], seconds: float, pace: RequestPace | None = None
) -> _T:
    """Asks until there is an answer, for as long as the policy is down or busy, and the request is not bad.

    Args:
        ask: Makes the request. It may repeat it at once a few times, as the openai package does.
        seconds: Limit on it all, from the moment when it is first sent.
        pace: Says when to send. None: at once.

    Raises:
        openai.OpenAIError: What `ask` raised; of an outage that lasts, the last. At once where the policy
            says that it will last longer than the limit.
        TimeoutError: There was no answer of any kind.
    """
    loop = asyncio.get_running_loop()
    refused: openai.APIError | None = None
    deadline: float | None = None
    backoff = _MIN_WAIT
    ticket = pace.take_ticket() if pace is not None else 0
    try:
        while True:
            if pace is not None:
                async with asyncio.timeout_at(deadline):
                    await pace.admit(ticket)
            if deadline is None:
                deadline = loop.time() + seconds
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await ask()
            except openai.APIError as error:
                refusal = classify_refusal(error)
                if refusal not in ("busy", "down"):
                    _note_success(pace, ticket)
                    raise
                refused = error
                wait = _hinted_wait(error, deadline - loop.time())
                if pace is not None and refusal == "busy":
                    pace.refuse(ticket, wait)
                    continue
                if pace is not None:
                    pace.drop(ticket)
            except BaseException as error:
                if pace is not None and not isinstance(error, Exception):
                    pace.drop(ticket)
                else:
                    _note_success(pace, ticket)
                raise
            else:
                _note_success(pace, ticket)
                return answer
            async with asyncio.timeout_at(deadline):
                await asyncio.sleep(backoff if wait is None else max(wait, 0.05) * random.uniform(1.0, 1.1))
            backoff = min(2 * backoff, _MAX_WAIT)
    except TimeoutError:
        if refused is not None:
            raise refused from None
        raise


def _note_success(pace: RequestPace | None, ticket: int) -> None:
    if pace is not None:
        pace.answer(ticket)


def _hinted_wait(error: openai.APIError, left: float) -> float | None:
    """Seconds to wait as the policy says; None if it does not.

    Raises:
        openai.APIError: It is more than is left.
    """
    wait = requested_wait(error)
    if wait is None:
        return None
    if isinstance(error, openai.APIStatusError) and stated_wait(error.response.headers) is not None:
        if wait > left:
            raise error
        return wait
    return min(wait, _MAX_HINTED_WAIT)
