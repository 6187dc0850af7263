"""Clean-up that no cancellation breaks off: it is done to its end, and the cancellation heeded then."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


async def run_to_end(work: "Coroutine[Any, Any, _T] | asyncio.Future[_T]") -> _T:
    """Does work that no cancellation of the caller breaks off, however often it comes.

    An `await` in a `finally` is where a second cancellation strikes: what follows it would not be done.

    Args:
        work: What is to be done.

    Returns:
        What it gives.

    Raises:
        asyncio.CancelledError: The caller was cancelled meanwhile; the work has ended.
        Exception: What the work raises. Where the caller was cancelled, too, it is logged in place of that.
    """
    task = asyncio.ensure_future(work)
    cancelled = await _wait_until_ended([task])
    if cancelled is None:
        return task.result()
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.warning("what was to be done before the end has failed: %r", error)
    raise cancelled from error


async def cancel_and_wait(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Cancels all of these tasks at once, and returns when each has ended, whatever it has come to.

    Raises:
        asyncio.CancelledError: The caller was cancelled meanwhile; the tasks have ended.
    """
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if (cancelled := await _wait_until_ended(tasks)) is not None:
        raise cancelled


def is_being_cancelled() -> bool:
    """Whether the running task was told to end; a CancelledError in any other is its own code's doing."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _wait_until_ended(tasks: "list[asyncio.Future[Any]]") -> asyncio.CancelledError | None:
    """Waits until tasks have ended; gives the last cancellation that came meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
