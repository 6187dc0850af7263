"""What a session's process is allowed, and what the kernel can tell of its children."""

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

_SESSION_SCORE = 800
"""`oom_score_adj` of a session, in thousandths of the memory there is."""

_HELD = (b"RssAnon", b"RssShmem", b"VmPTE")
"""What of `/proc/PID/status` is memory that a process holds."""

_FIRST_ID = 1024
_IDS_APART = 64
_IDS_AT_LEAST, _IDS_AT_MOST = 4096, 2**16
"""User ids of one container's sessions: where they may begin where there are few, how far apart two
containers begin there, and how many each has. When it has used all, it begins anew."""

_MADV_COLLAPSE = 25
_HUGE_PAGE = 2 * 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Makes orphaned descendants children of this process, so that none escapes it."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Keeps processes of the same user from tracing this one, reading its memory or opening what it has open.

    A fork inherits it.
    """
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """Asks for SIGKILL when the parent dies."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def become_user(user: int, acting_as: int) -> None:
    """Gives up root and every capability for good. Must come before `die_with_parent`, which it undoes.

    Args:
        user: Whose this process is. Processes of other users can't signal it.
        acting_as: Whose files it makes and whose processes it may end; another than `user` where what it
            starts, each of which must call `act_for_good`, is to have no power over it.
    """
    os.setgroups([])
    os.setresgid(acting_as, acting_as, acting_as)
    os.setresuid(user, acting_as, user)


def session_users(wanted: int, uid_map: str = "/proc/self/uid_map") -> range:
    """The user ids that sessions may have: from the one that is wanted on, or among those that there are.

    An engine that runs without root, or maps users, has 65,536 of them as a rule, the same for every
    container of it, and the kernel may count the processes of one over all of them. So each begins elsewhere.
    """
    with open(uid_map, encoding="ascii") as listing:
        spans = [(int(inside), int(length)) for inside, _, length in map(str.split, listing)]
    end = max(inside + length for inside, length in spans)
    if wanted + _IDS_AT_LEAST <= end:
        return range(wanted, min(end, wanted + _IDS_AT_MOST))
    first = min(_FIRST_ID, end // 2)
    blocks = max(1, (end - first - _IDS_AT_LEAST) // _IDS_APART)
    return range(first + wanted // _IDS_AT_MOST % blocks * _IDS_APART, end)


def act_for_good() -> None:
    """Makes the user that this process acts as its only one. Must come before `die_with_parent`."""
    user = os.geteuid()
    os.setresuid(user, user, user)


def use_huge_pages() -> None:
    """Has the kernel gather this process's memory in huge pages, where it can (from Linux 6.1 on).

    A fork copies one entry for each instead of 512, and the end of a session drops as few: it makes an
    AgentDojo episode about a tenth cheaper.
    """
    try:
        with open("/proc/self/maps", encoding="ascii") as listing:
            mappings = [line.split() for line in listing]
    except OSError:
        return
    for span, access, *rest in mappings:
        start, end = (int(bound, 16) for bound in span.split("-"))
        start, end = -(-start // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE
        is_memory = access.startswith("rw") and rest[3:] in ([], ["[heap]"])
        if is_memory and end > start:
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)


def reap_children() -> Iterator[tuple[int, int]]:
    """Takes this process's dead children off the kernel's hands: process id and wait status of each."""
    for pid, status, _ in reaped_with_peaks():
        yield pid, status


def reaped_with_peaks() -> Iterator[tuple[int, int, int]]:
    """Takes this process's dead children off the kernel's hands: id, wait status, most memory in bytes.

    The kernel tells of stops in the same way, of a child that has made this process its tracer
    (`PTRACE_TRACEME` needs nobody's leave). It is not dead: it is killed, and told of when it is.
    """
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            continue
        yield pid, status, used.ru_maxrss * 1024


def kill_user(user: int) -> None:
    """Kills every process of a user at once, so that none can fork its way out; needs to be root.

    The kernel goes through all processes in one go, as for the user itself (`kill(-1)`), and spares the
    caller and init.
    """
    os.setresuid(user, user, 0)
    try:
        with suppress(OSError):
            os.kill(-1, signal.SIGKILL)
    finally:
        os.setresuid(0, 0, 0)


def tracer_of(pid: int) -> int:
    """The process that traces another one, which a tracer can keep from being buried; 0: none."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            told = next(line for line in status if line.startswith(b"TracerPid:"))
            return int(told.split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


@dataclass(frozen=True)
class Status:
    """A process, as the kernel tells of it."""

    pid: int
    parent: int
    user: int
    """Whose files it makes."""
    held: int
    """Bytes of memory that go when it does: what it has written, shared memory, and page tables."""


def processes() -> dict[int, Status]:
    """All processes that can be seen, by process id. What is not to be found out is left out."""
    found: dict[int, Status] = {}
    try:
        entries = os.listdir("/proc")
    except OSError:
        return found
    for entry in filter(str.isdigit, entries):
        with suppress(OSError, LookupError, ValueError), open(f"/proc/{entry}/status", "rb") as status:
            told = dict(line.split(b":", 1) for line in status.read().splitlines() if b":" in line)
            kibibytes = sum(int(told.get(name, b"0 kB").split()[0]) for name in _HELD)
            users = told[b"Uid"].split()
            found[int(entry)] = Status(int(entry), int(told[b"PPid"]), int(users[1]), kibibytes * 1024)
    return found


def children() -> set[int]:
    """Process ids of this process's children."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as listing:
            return {int(child) for child in listing.read().split()}
    except OSError:
        return _children_by_scan(pid)


def _children_by_scan(parent: int) -> set[int]:
    return {pid for pid, status in processes().items() if status.parent == parent}


def apply_limits(limits: dict[str, Any]) -> None:
    """Sets the resource limits of a session's process; its children inherit them."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits.get("cpu_seconds"),
        resource.RLIMIT_NOFILE: limits.get("open_files"),
        resource.RLIMIT_FSIZE: _mebibytes(limits.get("file_size_mb")),
        resource.RLIMIT_AS: _mebibytes(limits.get("address_space_mb")),
        resource.RLIMIT_NPROC: limits.get("processes"),
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))


def _mebibytes(value: int | None) -> int | None:
    return None if value is None else value * 1024 * 1024


class OomScore:
    """This process's place among those that the kernel takes when memory runs out.

    Must be made before `hide_memory`, which gives the file to root. A session can't set its own: it would
    have to show its memory for that, and a neighbour of the same user could open what it has inherited.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._own = 0
        with suppress(OSError):
            self._file = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
            self._own = int(os.read(self._file, 16))

    def fork(self) -> int:
        """Forks a process that the kernel takes before this one; see `os.fork`.

        Raises:
            OSError: There is no room for one.
        """
        pid = None
        self._set(max(self._own, _SESSION_SCORE))
        try:
            pid = os.fork()
            return pid
        finally:
            if pid != 0:  # the file is this process's in the child as well
                self._set(self._own)

    def _set(self, score: int) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, str(score).encode(), 0)
