"""One lane, a process that plays episodes, as its worker sees it; and what it is given to play."""

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from workers.lanes.wire import pack_message
from workers.records import EpisodeResult, EpisodeSpec


@dataclass(eq=False)
class Unit:
    """Episodes that are played together."""

    number: int
    specs: list[EpisodeSpec]
    answer: "asyncio.Future[list[EpisodeResult]]"
    given_at: float = 0.0
    moves: int = 0

    def limit(self) -> float | None:
        """Seconds from `given_at` on in which it must be over."""
        return self.specs[0].seconds_left

    def settle(self, outcome: list[EpisodeResult] | Exception) -> None:
        """Says what it came to, unless that was said before."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


@dataclass(eq=False)
class Lane:
    """A lane as its worker sees it."""

    slot: int
    pid: int
    writer: asyncio.StreamWriter
    units: dict[int, Unit] = field(default_factory=dict[int, Unit])
    asked: "dict[int, asyncio.Future[Any]]" = field(default_factory=dict[int, "asyncio.Future[Any]"])
    turns: int = 0
    turned_at: float = field(default_factory=time.monotonic)
    held: float = 0.0
    held_lately: float = 0.0
    """Seconds of the last half minute or so for which steps that took long have held its loop up."""
    condemned: bool = False
    """It gets no more episodes, and ends with its last."""
    broken_off_at: float | None = None
    stacks: str = ""
    dead: bool = False
    used: bool = False

    def silent_for(self) -> float:
        """Seconds since its loop last said that it turns."""
        return time.monotonic() - self.turned_at

    def episodes(self) -> int:
        """Episodes that it has."""
        return sum(len(unit.specs) for unit in self.units.values())

    def send(self, what: str, said: Any, number: int = 0) -> None:
        """Sends it a message, if it is there."""
        if not self.dead:
            self.writer.write(pack_message((what, number, said)))

    async def request(self, what: str, number: int) -> Any:
        """Sends it a request, and waits for the answer.

        Raises:
            RuntimeError: It could not do it, or has ended.
        """
        self.asked[number] = asyncio.get_running_loop().create_future()
        self.send(what, None, number)
        return await self.asked[number]

    def kill(self) -> None:
        """Kills its process with all that belongs to it."""
        if self.dead:  # its number may be another's by now
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def send_signal(pid: int, number: int) -> None:
    """Sends a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def read_resident_mb(pid: int) -> int:
    """Memory that a process has in use, in MiB; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, IndexError):
        return 0
