"""What becomes of sessions' processes and folders when they end: nothing of them is left."""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from sandbox_images.tool_host import process
from sandbox_images.tool_host.scratch import remove

_MUST_BE_GONE = 5.0
"""Seconds after which a process that outlives its session is beyond us: the sandbox gives up and dies."""
_LOOK_AGAIN = 0.02
"""Seconds between two looks at processes that outlive their session."""


class Reaper:
    """Collects dead sessions, kills what outlives them, and removes their folders.

    Args:
        selector: What the tool host waits on: it is woken when a child dies.
        bury: Is given the process id of a dead child, unless it was one of ours, and its wait status.
        clear: Is called whenever nothing is left that outlives its session.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        bury: Callable[[int, int], None],
        clear: Callable[[], None],
    ) -> None:
        self._bury = bury
        self._clear = clear
        self._janitors: set[int] = set()
        self._orphans_since: float | None = None
        self._abandoned: list[Path] = []
        self._removed = 0
        woken, self._wake = socket.socketpair()
        woken.setblocking(False)
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        selector.register(woken, selectors.EVENT_READ, lambda _: woken.recv(4096) and None)

    @property
    def patience(self) -> float | None:
        """Seconds after which to `reap` though no child has died. None: no need."""
        return None if self._orphans_since is None else _LOOK_AGAIN

    def abandon(self, scratch: Path) -> None:
        """Has a dead session's folder removed when nothing is left that may write there."""
        self._abandoned.append(scratch)

    def reap(self, sessions: Collection[int]) -> None:
        """Collects whoever has died.

        Args:
            sessions: Process ids of the sessions; `bury` takes away those that are dead.

        Raises:
            SystemExit: Processes outlive their session faster than they can be killed.
        """
        reaped = False
        for pid, status in process.reaped():
            reaped = True
            if pid in self._janitors:
                self._janitors.remove(pid)
            else:
                self._bury(pid, status)
        if reaped or self._orphans_since is not None:
            self._sweep(sessions)

    def kill_all(self) -> None:
        """Kills every child, and theirs, for as long as any come up."""
        deadline = time.monotonic() + _MUST_BE_GONE
        while (left := process.children()) and time.monotonic() < deadline:
            for pid in left:
                send_kill(os.kill, pid)
            for _ in process.reaped():
                pass
            time.sleep(0.005)

    def _sweep(self, sessions: Collection[int]) -> None:
        """Kills what outlived its session: any child of ours that is no session and no janitor.

        A session adopts the orphans among its descendants, so they come to us only when it has died.
        """
        orphans = process.children() - set(sessions) - self._janitors
        if not orphans:
            self._orphans_since = None
            for scratch in self._abandoned:
                self._remove(scratch)
            self._abandoned.clear()
            self._clear()
            return
        self._orphans_since = self._orphans_since or time.monotonic()
        if time.monotonic() - self._orphans_since > _MUST_BE_GONE:
            raise SystemExit("processes outlive their session faster than they can be killed")
        for pid in orphans:
            send_kill(os.kill, pid)

    def _remove(self, scratch: Path) -> None:
        """Removes a scratch folder, in a process of its own when there is anything in it."""
        try:
            scratch.rmdir()
            return
        except OSError:
            pass
        self._removed += 1
        trash = scratch.with_name(f".removed-{self._removed}")
        try:
            scratch.rename(trash)
            pid = os.fork()
        except OSError:
            return
        if pid == 0:
            try:
                remove(str(trash))
            finally:
                os._exit(0)
        self._janitors.add(pid)


def send_kill(how: Callable[[int, int], None], pid: int) -> None:
    """SIGKILL by `os.kill` or `os.killpg`, to whoever may be gone already."""
    with suppress(OSError):
        how(pid, signal.SIGKILL)
