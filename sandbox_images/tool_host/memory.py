"""The container's memory and terminals as the tool host sees them, and which session takes most."""

import os
import socket
import struct
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sandbox_images.tool_host.process import Status, processes

_TIGHT, _TOO_TIGHT = 0.6, 0.92
"""Shares of the limit: from the first on it is looked at often, from the second on somebody has to go."""
_OFTEN, _SELDOM = 0.05, 1.0
"""Seconds between two looks."""
_LATELY = 2.0
"""Seconds after a kill for memory in which a session's end by SIGKILL is taken for it."""
_MOST_OF_IT = 0.5
"""Share of what all sessions hold that makes one of them the one that did it."""
_NETLINK, _SOCK_DIAG, _UNIX = 16, 4, 1
_SHOW_MEMORY_AND_USER = 0x20 | 0x40
_MEMORY, _USER = 5, 7
"""Attributes of a socket in the kernel's answer: `UNIX_DIAG_MEMINFO` and `UNIX_DIAG_UID`."""


@dataclass(frozen=True)
class _Files:
    """The files of a memory control group, by its version."""

    usage: Path
    limit: Path
    details: Path
    file_pages: tuple[str, ...]
    kills: Path


def _files(root: Path) -> _Files | None:
    if (root / "memory.events").exists():
        return _Files(
            root / "memory.current",
            root / "memory.max",
            root / "memory.stat",
            ("active_file", "inactive_file"),
            root / "memory.events",
        )
    root = root / "memory"
    if (root / "memory.oom_control").exists():
        return _Files(
            root / "memory.usage_in_bytes",
            root / "memory.limit_in_bytes",
            root / "memory.stat",
            ("total_active_file", "total_inactive_file"),
            root / "memory.oom_control",
        )
    return None


class MemoryWatch:
    """Tells when the container's memory runs out, how often the kernel killed for it, and who takes it.

    Where the tool host sees no control group, as under gVisor, it tells of nothing.

    Args:
        root: Where control groups are mounted.
    """

    def __init__(self, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._group = _files(root)
        self._limit = 0
        self._kills = 0
        self._killed_at = float("-inf")
        self._share = 0.0
        if self._group is not None:
            with suppress(OSError, ValueError):
                self._limit = int(self._group.limit.read_text())
            self._kills = self._count_kills()

    @property
    def patience(self) -> float | None:
        """Seconds after which to look again. None: there is nothing to look at."""
        if not self._limit or self._limit >= 1 << 62:
            return None
        return _OFTEN if self._share > _TIGHT else _SELDOM

    def is_exhausted(self) -> bool:
        """Whether what the kernel can't take back has come near the limit."""
        group = self._group
        if group is None or self.patience is None:
            return False
        try:
            used = int(group.usage.read_text())
            self._share = used / self._limit
            if self._share > _TIGHT:  # pages of files count as well, until the kernel needs their room
                details = dict(line.split() for line in group.details.read_text().splitlines())
                used -= sum(int(details.get(name, 0)) for name in group.file_pages)
                self._share = used / self._limit
        except (OSError, ValueError):
            return False
        return self._share > _TOO_TIGHT

    def killed_lately(self) -> bool:
        """Whether the kernel has killed for memory in the last seconds. To be asked now and then."""
        before, self._kills = self._kills, self._count_kills()
        if self._kills > before:
            self._killed_at = time.monotonic()
        return time.monotonic() - self._killed_at < _LATELY

    def _count_kills(self) -> int:
        if self._group is None:
            return 0
        try:
            lines = self._group.kills.read_text().splitlines()
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
        except (OSError, ValueError):
            return 0


def find_largest(
    sessions: Mapping[int, Collection[int]], dead: Mapping[int, int] | None = None
) -> int | None:
    """The session that holds most memory by far: in its processes, their page tables and their sockets.

    Args:
        sessions: User ids that are a session's alone, by its process id; none where sessions share one: then
            its descendants are counted, and sockets, which tell of no more than a user, are not.
        dead: Bytes that sessions which are dead have held, by process id.

    Returns:
        Its process id. None: no session holds more than half of what all hold.
    """
    found = processes()
    owners = {user: pid for pid, users in sessions.items() for user in users}
    held = {**dict.fromkeys(sessions, 0), **(dead or {})}
    for process in found.values():
        session = owners.get(process.user) or _ancestor(process, found, sessions)
        if session is not None:
            held[session] += process.held
    for user, size in _sockets_of_users().items():
        if user in owners:
            held[owners[user]] += size
    largest = max(held, key=lambda pid: held[pid], default=None)
    if largest is None or held[largest] <= _MOST_OF_IT * sum(held.values()):
        return None
    return largest


def terminal_owners() -> dict[int, int]:
    """Pseudoterminals that are open in this container, counted by user id."""
    found: dict[int, int] = {}
    with suppress(OSError), os.scandir("/dev/pts") as entries:
        for entry in entries:
            if entry.name.isdigit():
                with suppress(OSError):
                    user = entry.stat(follow_symlinks=False).st_uid
                    found[user] = found.get(user, 0) + 1
    return found


def _ancestor(process: Status, found: Mapping[int, Status], sessions: Collection[int]) -> int | None:
    seen: set[int] = set()
    current: Status | None = process
    while current is not None and current.pid not in seen:
        if current.pid in sessions:
            return current.pid
        seen.add(current.pid)
        current = found.get(current.parent)
    return None


def _sockets_of_users() -> dict[int, int]:
    """Bytes in the buffers of Unix sockets by user id, where the kernel tells."""
    held: dict[int, int] = {}
    all_of_them = 0xFFFFFFFF
    shown = _SHOW_MEMORY_AND_USER
    request = struct.pack("=BBHIIIII", _UNIX, 0, 0, all_of_them, 0, shown, all_of_them, all_of_them)
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with suppress(OSError), socket.socket(_NETLINK, kind, _SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(struct.pack("=IHHII", 16 + len(request), 20, 0x301, 1, 0) + request)
        while _add_sockets(kernel.recv(1 << 20), held):
            pass
    return held


def _add_sockets(answer: bytes, held: dict[int, int]) -> bool:
    """Adds the sockets in one answer of the kernel; whether more is to come."""
    at = 0
    while at + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if kind != 20 or length < 16:
            return False
        user, size, place, end = 0, 0, at + 32, at + length
        while place + 4 <= end:
            span, attribute = struct.unpack_from("=HH", answer, place)
            if attribute == _USER:
                (user,) = struct.unpack_from("=I", answer, place + 4)
            elif attribute == _MEMORY:
                received, _, sent = struct.unpack_from("=III", answer, place + 4)
                size = received + sent
            place += max(4, (span + 3) & ~3)
        held[user] = held.get(user, 0) + size
        at += (length + 3) & ~3
    return True
