"""What a test may leave behind: nothing. Counted before and after."""

import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from tests.helpers.sandboxes import children
from workers.sandbox import ownership

_PATIENCE = 90.0


@dataclass(frozen=True)
class Holdings:
    """What this process, and its containers, hold."""

    containers: frozenset[str]
    processes: frozenset[int]
    threads: frozenset[str]
    descriptors: frozenset[str]
    files: frozenset[str]

    @classmethod
    def now(cls, engine: docker.DockerClient, run: str) -> "Holdings":
        """As they are at this moment.

        Args:
            engine: To ask for containers.
            run: The run whose containers count.
        """
        listed = engine.api.containers(all=True, filters={"label": f"{ownership.RUN}={run}"})
        found = frozenset(str(one["Id"]) for one in listed if _is_there(engine, str(one["Id"])))
        engine.api.close()  # the connections that the test itself keeps
        gc.collect()  # an SDK client's sockets are closed when it is collected
        return cls(
            containers=found,
            processes=frozenset(children(os.getpid())),
            # The event loop's pool keeps its idle threads.
            threads=frozenset(t.name for t in threading.enumerate() if not t.name.startswith("asyncio_")),
            descriptors=frozenset(_descriptors()),
            files=frozenset(os.listdir(tempfile.gettempdir())),
        )


def _is_there(engine: docker.DockerClient, container: str) -> bool:
    """Whether there is a listed container: a killed engine may list, as dead, one that it no longer has."""
    try:
        engine.api.inspect_container(container)
    except docker.errors.NotFound:
        return False
    return True


def _descriptors() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            yield f"{number}: {os.readlink(f'/proc/self/fd/{number}')}"


def shims_of(containers: set[str]) -> set[str]:
    """Processes on this machine that name one of these containers: what runs them, and its helpers."""
    found: set[str] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(container in line for container in containers):
            found.add(f"{entry}: {line[:200]}")
    return found


def assert_nothing_left(before: Holdings, engine: docker.DockerClient, run: str, ids: set[str]) -> None:
    """Waits until all is as before; a container's processes take a moment to be gone."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        now, shims = Holdings.now(engine, run), shims_of(ids)
        left = {
            "containers": now.containers - before.containers,
            "processes": now.processes - before.processes,
            "shims": shims,
            "threads": now.threads - before.threads,
            "descriptors": now.descriptors - before.descriptors,
            "files": {name for name in now.files - before.files if not name.startswith("kumite-creations")},
        }
        if not any(left.values()):
            return
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
