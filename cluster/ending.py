"""How a run ends when it is told to: the first signal drains it, a second one ends it at once."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

_T = TypeVar("_T")
EXIT_FAILED = 3
"""The exit code of a run that has stopped by itself, or of which too much failed."""
_log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The user, or the system, asked the run to end."""

    def __init__(self, number: signal.Signals, folder: str) -> None:
        super().__init__(
            f"ended by {number.name}; what had finished is in {folder}; go on with: "
            f"kumite run --resume {folder}"
        )
        self.exit_code = 128 + number


class ShutdownSignal:
    """The signal, SIGINT or SIGTERM, that tells a run to end. It listens on the running event loop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._drain: Callable[[], None] | None = None
        self._in_flight: Callable[[], str] = lambda: ""
        self._guarded: asyncio.Task[Any] | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)

    def set_drain(self, drain: Callable[[], None]) -> None:
        """Sets what the first signal calls in place of cancelling. Calls it now if the signal has come."""
        self._drain = drain
        if self.signal is not None:
            drain()

    def set_in_flight_text(self, in_flight: Callable[[], str]) -> None:
        """Sets the function that words what becomes of the episodes in flight, for a signal's log line."""
        self._in_flight = in_flight

    async def run_cancellable(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Awaits work that a signal cancels, even a signal that has come before."""
        self._guarded = task = asyncio.create_task(work)
        if self.signal is not None:
            task.cancel()
        try:
            return await task
        finally:
            self._guarded = None

    def _on_signal(self, number: signal.Signals) -> None:
        if self.signal is not None:
            # At once, and without a word to anyone: the journal holds what was acknowledged, and a
            # sandbox ends with its worker, which ends with us.
            os._exit(128 + number)
        self.signal = number
        _log.warning("%s: no new episodes%s; again to end at once", number.name, self._in_flight())
        if self._drain is not None:
            self._drain()
        elif self._guarded is not None:
            self._guarded.cancel()


async def run_in_turns(work: Generator[None, None, _T]) -> _T:
    """Runs long work piece by piece on the event loop, so that signals are handled in between."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            value: _T = end.value
            return value
        await asyncio.sleep(0)
