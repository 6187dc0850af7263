"""What becomes of sessions' processes and folders when they end: nothing of them is left."""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from sandbox_images.tool_host import process
from sandbox_images.tool_host.leftovers import has_left_anything, remove_left_behind
from sandbox_images.tool_host.scratch import remove

_ENOUGH_ROUNDS = 50
"""Times that orphans are looked for at once, one round after the other, while new ones come up."""
_DYING = 3.0
"""Seconds that one who waits for a session's end waits for processes that are killed and not yet gone. They
run nothing of their own any more, but on a busy machine it may take long until they are let to go."""
_TRASH = ".removed-"
_MUST_BE_GONE = 5.0
"""Seconds that the tool host, at its own end, waits for its children's."""
_LOOK_AGAIN = 0.02
"""Seconds between two looks at processes that outlive their session."""
_TRY_AGAIN = 0.5
"""Seconds after which a folder that could not be removed is tried again."""


@dataclass
class _Left:
    """What a dead session leaves: its folder, and the user whose other things are its alone."""

    scratch: Path
    user: int | None


class Reaper:
    """Collects dead sessions, kills what outlives them, and removes what they leave.

    Args:
        selector: What the tool host waits on: it is woken when a child dies.
        bury: Is given the process id of a dead child, unless it was one of ours, its wait status,
            and the most bytes of memory that it has held.
        clear: Is called whenever nothing that outlives its session has anything left to do.
        own_ipc: Whether System V IPC, message queues and `/dev/shm` are the sandbox's own: what sessions have
            left there is then removed.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        bury: Callable[[int, int, int], None],
        clear: Callable[[], None],
        own_ipc: bool = False,
    ) -> None:
        self._own_ipc = own_ipc
        user = os.geteuid()
        self._shared_user = user if own_ipc and not has_left_anything(user) else None
        self._bury = bury
        self._clear = clear
        self._janitors: set[int] = set()
        self._dying: set[int] = set()
        self._orphans: dict[int, float] = {}
        self._abandoned: list[_Left] = []
        self._removed = 0
        self._look_again = False
        self._swept = 0.0
        woken, self._wake = socket.socketpair()
        woken.setblocking(False)
        self._wake.setblocking(False)
        self._woken = woken
        signal.signal(signal.SIGCHLD, _note_nothing)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        selector.register(woken, selectors.EVENT_READ, self._swallow)

    @property
    def patience(self) -> float | None:
        """Seconds after which to `reap` though no child has died. None: no need."""
        if self._orphans or self._dying or self._look_again:
            return _LOOK_AGAIN
        return _TRY_AGAIN if self._abandoned else None

    def expect(self, pid: int) -> None:
        """Notes that a session was killed: whoever keeps it from being buried is looked for."""
        self._dying.add(pid)

    def abandon(self, scratch: Path, user: int | None) -> None:
        """Has what a dead session leaves removed when nothing is left that may add to it.

        Args:
            scratch: Its folder.
            user: Whose other things are its alone; None: nobody's.
        """
        self._abandoned.append(_Left(scratch, user))

    def reap(self, sessions: Collection[int]) -> None:
        """Collects whoever has died, and kills what outlives its session.

        Args:
            sessions: Process ids of the sessions; `bury` takes away those that are dead.
        """
        has_reaped = False
        for pid, status, peak in process.reaped_with_peaks():
            has_reaped = True
            self._orphans.pop(pid, None)
            self._dying.discard(pid)
            if pid in self._janitors:
                self._janitors.remove(pid)
            else:
                self._bury(pid, status, peak)
        self._dying.intersection_update(sessions)
        patience, now = self.patience, time.monotonic()
        if has_reaped or (patience is not None and now - self._swept >= patience):
            self._swept = now
            self._sweep(sessions)

    def kill_all(self) -> None:
        """Kills every child, and theirs, for as long as any come up."""
        deadline = time.monotonic() + _MUST_BE_GONE
        while (left := process.children()) and time.monotonic() < deadline:
            for pid in left:
                send_kill(os.kill, pid)
                self._kill_tracer(pid)
            for _ in process.reap_children():
                pass
            time.sleep(0.005)

    def _swallow(self, _: int) -> None:
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def _sweep(self, sessions: Collection[int]) -> None:
        """Kills what outlived its session: any child of ours that is no session and no janitor.

        A session adopts the orphans among its descendants, so they come to us only when it has died. One that
        is killed may leave more, so they are looked for until none is new: what is killed can't fork.
        """
        now = time.monotonic()
        orphans: set[int] = set()
        fresh: set[int] = set()
        for _ in range(_ENOUGH_ROUNDS):
            orphans = process.children() - set(sessions) - self._janitors
            fresh = orphans - self._orphans.keys()
            for pid in fresh:
                send_kill(os.kill, pid)
            self._orphans.update(dict.fromkeys(fresh, now))
            if not fresh:
                break
        self._look_again = bool(orphans) and bool(fresh)
        self._orphans = {pid: since for pid, since in self._orphans.items() if pid in orphans}
        for pid in (*self._orphans, *self._dying):
            send_kill(os.kill, pid)
            self._kill_tracer(pid)
        if self._look_again or any(now - since < _DYING for since in self._orphans.values()):
            return
        self._clear()
        if not self._orphans:
            self._abandoned = [left for left in self._abandoned if not self._remove(left, not sessions)]

    def _kill_tracer(self, pid: int) -> None:
        """Kills the process that traces a killed one, which the kernel keeps for it to look at."""
        tracer = process.tracer_of(pid)
        if tracer not in (0, os.getpid()):
            send_kill(os.kill, tracer)

    def _remove(self, left: _Left, alone: bool) -> bool:
        """Removes what a session leaves, in a process of its own when that takes more than one step.

        Args:
            left: What.
            alone: Whether there is no other session, so that all that sessions' user has left is nobody's.

        Returns:
            Whether it is done, or under way; else it is to be tried again.
        """
        owner = (left.user if self._own_ipc else None) or (self._shared_user if alone else None)
        litters = owner is not None and has_left_anything(owner)
        with suppress(OSError):
            left.scratch.rmdir()
            if not litters:
                return True
        try:
            if left.scratch.exists() and not left.scratch.name.startswith(_TRASH):
                self._removed += 1
                left.scratch = left.scratch.rename(left.scratch.with_name(f"{_TRASH}{self._removed}"))
            pid = os.fork()
        except OSError:
            return False
        if pid == 0:
            try:
                remove(str(left.scratch))
                if owner is not None:
                    if owner != os.geteuid():
                        os.setresuid(owner, owner, owner)
                    remove_left_behind(owner)
            finally:
                os._exit(0)
        self._janitors.add(pid)
        return True


def _note_nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler, so that the signal wakes the selector."""


def send_kill(how: Callable[[int, int], None], pid: int) -> None:
    """SIGKILL by `os.kill` or `os.killpg`, to whoever may be gone already."""
    with suppress(OSError):
        how(pid, signal.SIGKILL)
