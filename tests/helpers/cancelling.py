"""Cancels a coroutine at its n-th suspension, once or twice: for tests of what it leaves behind."""

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any

AGAIN = (None, 0, 1, 2, 3)
"""When the second cancellation comes: not at all, or so many suspensions after the first one."""


class Counted(Coroutine[Any, Any, Any]):
    """A coroutine that has its task cancelled while it is suspended for the n-th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: list[int]) -> None:
        self._work = work
        self._at = at
        self.suspensions = 0
        self.__qualname__ = self.__name__ = work.__qualname__

    def send(self, value: Any) -> Any:
        return self._counted(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._counted(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("it is for a task of its own")

    def _counted(self, waits_for: Any) -> Any:
        self.suspensions += 1
        for _ in range(self._at.count(self.suspensions)):
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)  # for now it is not suspended yet
        return waits_for


async def cancelled_at(work: Coroutine[Any, Any, Any], suspension: int, again: int | None) -> bool:
    """Runs a coroutine that is cancelled at a suspension.

    Returns:
        Whether it has come to that suspension; if it has not, it has ended by itself.
    """
    at = [suspension] if again is None else [suspension, suspension + again]
    counted = Counted(work, at)
    task = asyncio.create_task(counted, name="cancelled")
    done, _ = await asyncio.wait([task], timeout=60)
    assert done, f"it pends for ever after a cancellation at suspension {at}"
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    return counted.suspensions >= suspension


@contextmanager
def cancelling_tasks(
    qualname: str, suspension: int, again: int | None, number: int = 1
) -> Iterator[list[Counted]]:
    """Has a task of a coroutine function, the first or another, cancelled, whoever makes it."""
    loop = asyncio.get_running_loop()
    found: list[Counted] = []
    seen = 0
    at = [suspension] if again is None else [suspension, suspension + again]

    def make(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
        nonlocal seen
        if getattr(work, "__qualname__", None) == qualname:
            seen += 1
            if seen == number:
                work = Counted(work, at)
                found.append(work)
        return asyncio.Task(work, loop=loop, **kwargs)

    before = loop.get_task_factory()
    loop.set_task_factory(make)
    try:
        yield found
    finally:
        loop.set_task_factory(before)


async def nothing_left(
    before: set[asyncio.Task[Any]], is_ours: Callable[[Any], bool] = lambda _: True
) -> None:
    """Sees that all tasks end that have been begun since, after as many turns as they could need."""
    for _ in range(200):
        left = {task for task in asyncio.all_tasks() - before if is_ours(task)}
        if not left:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"tasks are left: {left}")
