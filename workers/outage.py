"""A policy that is down for a while: its requests wait for it, and no episode is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import openai

_T = TypeVar("_T")

_SHORTEST, _LONGEST = 1.0, 15.0
"""Seconds between two looks at a policy that is down."""
_DOWN = frozenset({502, 503, 504})
_DEAD_ENGINE = "EngineDeadError"
"""What vLLM says, with status 500, until Ray Serve has put another replica in its place: minutes later."""


async def outlast(ask: Callable[[], Awaitable[_T]], seconds: float) -> _T:
    """Asks until there is an answer, while it is the policy that is down, and not the request that is bad.

    Args:
        ask: Makes the request. It may repeat it at once a few times, as the openai package does.
        seconds: Limit on it all.

    Raises:
        openai.OpenAIError: What `ask` raised; of an outage that lasts, the last.
        TimeoutError: There was no answer of any kind.
    """
    down: openai.APIError | None = None
    pause = _SHORTEST
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await ask()
                except openai.APIError as error:
                    if not _is_down(error):
                        raise
                    down = error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
    except TimeoutError:
        if down is not None:
            raise down from None
        raise


def _is_down(error: openai.APIError) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _DOWN or (error.status_code == 500 and _DEAD_ENGINE in str(error))
    return isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
