"""The processes that a session starts, and their end: none of them, nor any descendant, gets away."""

import os
import resource
import signal
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import NoReturn

from sandbox_images.tool_host import process

_KERNEL_LISTS_CHILDREN = os.path.exists("/proc/thread-self/children")
_MUST_BE_DEAD = 5.0
"""Seconds after which processes that are killed as fast as they appear are beyond us."""
_MAX_LOOKS = 200
"""Looks at what is left, at the least, before that is said: on a busy machine, slow is not hopeless."""
_GIVE_UP_SECONDS = 20.0
"""Seconds after which it is said however few looks there were."""


class UnkillableProcesses(TimeoutError):
    """Processes multiply faster than they can be killed."""


class ProcessFamily:
    """The family of this process: its descendants. Orphans among them stay in it: the session adopts them."""

    def __init__(self) -> None:
        self._statuses: dict[int, int | None] = {}

    def spawn(
        self,
        command: list[str],
        environment: Mapping[str, str],
        folder: str | int,
        descriptors: Mapping[int, int],
        cpu_seconds: int | None = None,
        become_user: Callable[[], None] | None = None,
    ) -> int:
        """Starts a program in a session of its own, so that a signal to its group reaches nobody else.

        Args:
            command: The program, a path or a name to look up in the environment's PATH, and its arguments.
            environment: All of its environment.
            folder: Where it starts: a path or a descriptor.
            descriptors: Its only descriptors: ours by its number. Targets must not be among the sources.
            cpu_seconds: CPU time after which it is killed, and so is each of its children after as much.
            become_user: Makes the process another user's. None: it is the one that this process acts as.

        Returns:
            The process id.
        """
        pid = os.fork()
        if pid == 0:
            _execute(command, environment, folder, descriptors, cpu_seconds, become_user)
        self._statuses[pid] = None
        return pid

    def status(self, pid: int) -> int | None:
        """The exit code of what was spawned, 128 + its number for a signal; None while it lives."""
        if self._statuses.get(pid) is None:
            self.reap()
        return self._statuses.get(pid)

    def reap(self) -> None:
        """Takes the dead off the kernel's hands: until then each counts as a process of the container."""
        for pid, status in process.reap_children():
            if os.WIFSTOPPED(status):  # it has made us its tracer, and we let nobody go on under our eyes
                _send_signal({pid}, signal.SIGKILL)
            elif pid in self._statuses:
                code = os.waitstatus_to_exitcode(status)
                self._statuses[pid] = code if code >= 0 else 128 - code

    def alive(self) -> set[int]:
        """All descendants that live."""
        return self._descendants(())

    def kill(self, spared: Collection[int] = (), seconds: float | None = None) -> None:
        """Ends all descendants but the spared ones and theirs.

        They are stopped first, all of them, and only then killed: what is stopped can't fork, and still
        holds its place below the limit of processes.

        Args:
            spared: Process ids.
            seconds: How long to try; None: for as long as there is hope.

        Raises:
            UnkillableProcesses: Some are still there.
        """
        began = time.monotonic()
        stopped: set[int] = set()
        while fresh := self._descendants(spared) - stopped:
            _send_signal(fresh, signal.SIGSTOP)
            stopped |= fresh
            if time.monotonic() - began > (_MUST_BE_DEAD if seconds is None else seconds) / 2:
                break
        looks = 0
        while victims := self._descendants(spared):
            _send_signal(victims, signal.SIGKILL)
            looks += 1
            if _is_killing_hopeless(time.monotonic() - began, looks, seconds):
                raise UnkillableProcesses("the session's processes multiply faster than they can be killed")
            time.sleep(0.001)
            self.reap()

    def _descendants(self, spared: Collection[int]) -> set[int]:
        self.reap()
        children_of = _read_children if _KERNEL_LISTS_CHILDREN else _scan_children()
        found: set[int] = set()
        parents = [os.getpid()]
        while parents:
            fresh = children_of(parents.pop()) - found.union(spared)
            found |= fresh
            parents += fresh
        return found


def _execute(
    command: list[str],
    environment: Mapping[str, str],
    folder: str | int,
    descriptors: Mapping[int, int],
    cpu_seconds: int | None,
    become_user: Callable[[], None] | None,
) -> NoReturn:
    try:
        process.act_for_good()
        if become_user is not None:
            become_user()
        process.die_with_parent()
        os.setsid()
        os.chdir(folder)
        if cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        for target, source in descriptors.items():
            os.dup2(source, target)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        first = 0
        for target in [*sorted(descriptors), limit]:
            if first < target:  # an empty range that ends at 0 would be every descriptor there is
                os.closerange(first, target)
            first = target + 1
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, environment)
    finally:
        os._exit(127)


def _is_killing_hopeless(passed: float, looks: int, seconds: float | None) -> bool:
    if seconds is not None:
        return passed > seconds
    return passed > _GIVE_UP_SECONDS or (passed > _MUST_BE_DEAD and looks > _MAX_LOOKS)


def _send_signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


def _read_children(pid: int) -> set[int]:
    """Children of all threads of a process, by the kernel's own lists."""
    found: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as listing:
                found.update(map(int, listing.read().split()))
    return found


def _scan_children() -> Callable[[int], set[int]]:
    """The same where the kernel keeps no such lists: from what every process says of its parent."""
    children: dict[int, set[int]] = {}
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError), open(f"/proc/{int(entry)}/stat", "rb") as stat:
            parent = int(stat.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, set()).add(int(entry))
    return lambda pid: children.get(pid, set())
