"""What a lane tells without a message: memory that it shares with its worker, readable while it is stuck."""

import ctypes
import mmap
import os
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from time import monotonic
from typing import Any

from workers.lanes.errors import EnvironmentExit

SLOTS = 256
"""Lanes that one worker may have at once."""

_CELLS_PER_SLOT = 3
_LONG_STEP_SECONDS = 0.1
"""Seconds from which on one step of a task holds the others up."""

current_mark: ContextVar[int] = ContextVar("kumite_lane_mark", default=0)
"""Number of the unit that the running task belongs to; 0 for none."""


class Board:
    """Three numbers per lane: turns of its loop, the unit whose code runs just now (0: none), and held time.

    Args:
        file: Descriptor of the memory, as `create` gives it.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory = mmap.mmap(file, SLOTS * 8 * _CELLS_PER_SLOT)
        self._cells = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls) -> "Board":
        """A new one, whose descriptor a child process may be given."""
        file = os.memfd_create("kumite-board")
        os.ftruncate(file, SLOTS * 8 * _CELLS_PER_SLOT)
        return cls(file)

    def turns(self, slot: int) -> int:
        """How often a lane's loop has said that it turns."""
        return self._cells[_CELLS_PER_SLOT * slot]

    def running(self, slot: int) -> int:
        """The unit whose code a lane is running just now."""
        return self._cells[_CELLS_PER_SLOT * slot + 1]

    def held(self, slot: int) -> float:
        """Seconds for which steps that took long have held a lane's loop up, all of them together."""
        return self._cells[_CELLS_PER_SLOT * slot + 2] / 1000

    def turn(self, slot: int) -> None:
        """Says that a lane's loop turns."""
        self._cells[_CELLS_PER_SLOT * slot] += 1

    def clear(self, slot: int) -> None:
        """Makes a slot ready for another lane."""
        for cell in range(_CELLS_PER_SLOT * slot, _CELLS_PER_SLOT * (slot + 1)):
            self._cells[cell] = 0

    def mark_steps(self, slot: int, work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """The same coroutine; while a step of it runs, the board names the unit that it was made in."""
        number = current_mark.get()
        return _MarkedCoroutine(work, self._cells, _CELLS_PER_SLOT * slot + 1, number) if number else work


class _MarkedCoroutine(Coroutine[Any, Any, Any]):
    __slots__ = ("_cell", "_cells", "_number", "_work")

    def __init__(
        self, work: Coroutine[Any, Any, Any], cells: "memoryview[int]", cell: int, number: int
    ) -> None:
        self._work, self._cells, self._cell, self._number = work, cells, cell, number

    def send(self, value: Any, /) -> Any:
        self._cells[self._cell] = self._number
        began = monotonic()
        try:
            return self._work.send(value)
        except (SystemExit, KeyboardInterrupt) as error:  # which would end the loop, and with it all episodes
            raise EnvironmentExit.of(error) from error
        finally:
            self._end_step(began)

    def throw(self, *error: Any) -> Any:
        self._cells[self._cell] = self._number
        began = monotonic()
        try:
            return self._work.throw(*error)
        except (SystemExit, KeyboardInterrupt) as ended:
            raise EnvironmentExit.of(ended) from ended
        finally:
            self._end_step(began)

    def _end_step(self, began: float) -> None:
        self._cells[self._cell] = 0
        if monotonic() - began > _LONG_STEP_SECONDS:
            self._cells[self._cell + 1] += int(1000 * (monotonic() - began))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that started it ends, however that comes about."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
