"""Calls that an SDK sends again, because it has seen no answer: they are one call, and one step."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_RETRY_COUNT = "x-stainless-retry-count"
"""With which the openai and anthropic packages say how often they have sent a request before."""
_IDEMPOTENCY = ("idempotency-key", "x-idempotency-key", "x-stainless-idempotency-key")


@dataclass(eq=False)
class Call(Generic[_T]):
    """One call, as often as it may have been sent."""

    work: asyncio.Task[_T]
    delivered: bool = False
    """Whether its answer went out whole."""
    listeners: int = 0
    """Connections that wait for it."""
    keys: set[str] = field(default_factory=set[str])
    """Idempotency keys that it came with."""


class Retries(Generic[_T]):
    """The calls of one session.

    A call belongs to its episode, not to a connection: one whose connection breaks goes on, and its answer is
    there for whoever asks again.
    """

    def __init__(self) -> None:
        self._calls: dict[str, list[Call[_T]]] = {}

    def join(
        self, route: str, body: bytes, headers: Mapping[str, str], start: Callable[[], Awaitable[_T]]
    ) -> Call[_T]:
        """The call that a request is: one that was made before, or a new one.

        It is one from before where the body is the same and the request says that it is sent again, or has
        the same idempotency key, or nobody has received the answer of the one before it.

        Args:
            route: The path.
            body: The request's body.
            headers: Its headers, with names in small letters.
            start: Makes the call.
        """
        digest = hashlib.sha256(route.encode() + b"\0" + body).hexdigest()
        key = next((headers[name] for name in _IDEMPOTENCY if name in headers), None)
        earlier = self._calls.setdefault(digest, [])
        call = self._known(earlier, key, headers.get(_RETRY_COUNT, "0") not in ("", "0"))
        if call is None:
            call = Call(asyncio.ensure_future(_awaited(start)))
            earlier.append(call)
            call.work.add_done_callback(partial(self._forget_failed, digest, call))
        if key is not None:
            call.keys.add(key)
        return call

    @staticmethod
    def _known(earlier: list[Call[_T]], key: str | None, is_retry: bool) -> Call[_T] | None:
        known = [call for call in reversed(earlier) if not _has_failed(call.work)]
        if key is not None:
            if (same := next((call for call in known if key in call.keys), None)) is not None:
                return same
            known = [call for call in known if not call.keys]
        missed = next((call for call in known if not call.delivered and call.listeners == 0), None)
        return missed or (known[0] if known and is_retry else None)

    def _forget_failed(self, digest: str, call: Call[_T], work: asyncio.Task[_T]) -> None:
        """Lets go of a call that came to no answer, and of all that its error holds on to.

        Such a call may be made anew, and fail anew, without end.
        """
        if _has_failed(work) and call in (same := self._calls.get(digest, [])):
            same.remove(call)
            if not same:
                del self._calls[digest]

    async def close(self) -> None:
        """Breaks off what is going on."""
        tasks = [call.work for calls in self._calls.values() for call in calls if not call.work.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _has_failed(work: asyncio.Task[Any]) -> bool:
    return work.done() and (work.cancelled() or work.exception() is not None)


async def _awaited(start: Callable[[], Awaitable[_T]]) -> _T:
    return await start()
