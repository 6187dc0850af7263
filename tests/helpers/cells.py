"""A cell to attack from within: one session that attacks, a neighbour that works on, and what is around."""

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.helpers.sandboxes import LONG, dummy, said
from workers.sandbox import ownership
from workers.sandbox.base import Owner, Session
from workers.sandbox.docker import DockerSandbox
from workers.sandbox.pool import SandboxPool
from workers.sandbox.relay import ProtocolFactory
from workers.settings import SandboxSettings

MEMORY_MB, PIDS, SCRATCH_MB = 256, 64, 16
_numbers = itertools.count()


@dataclass(frozen=True)
class Level:
    """How well episodes are kept from one another, and from the host."""

    runtime: str
    recycle: str
    users: bool = False

    def __str__(self) -> str:
        return f"{self.runtime}-{self.recycle}" + ("-users" if self.users else "")

    @property
    def shared(self) -> bool:
        """Whether neighbours live in one container as one user."""
        return self.recycle == "fork" and not self.users

    @property
    def own_kernel(self) -> bool:
        """Whether what is inside talks to another kernel than the host's: it grants more, of itself alone."""
        return self.runtime == "runsc"


LEVELS = [
    Level("runc", "fork"),
    Level("runc", "fork", users=True),
    Level("runc", "episode"),
    Level("runc", "episode", users=True),
    Level("runsc", "fork", users=True),
    Level("runsc", "episode", users=True),
]


class Cell:
    """Sandboxes of one level, with small limits, and a session in them that must not notice anything."""

    def __init__(self, level: Level, pool: SandboxPool, engine: docker.DockerClient) -> None:
        self.level = level
        self.pool = pool
        self.engine = engine
        self.neighbour: Session
        self.neighbour_pid = 0

    async def move_in(self) -> None:
        """Brings up the neighbour, with a file of its own."""
        self.neighbour = await self.session()
        await said(self.neighbour, "attempt", code="open('mine', 'w').write('precious')")
        self.neighbour_pid = json.loads(await said(self.neighbour, "who"))["pid"]

    async def session(self, factory: ProtocolFactory | None = None) -> Session:
        """A session; with a factory, its programs can connect to the worker."""
        session = await self.pool.acquire(f"s{next(_numbers)}")
        if factory is not None:
            session.serve_connections(factory)
        await session.open({})
        return session

    async def unharmed(self) -> None:
        """The neighbour works on with what it had, and the worker still talks to its sandbox."""
        async with asyncio.timeout(LONG):
            assert await said(self.neighbour, "attempt", code="seen = open('mine').read()") == "precious"
            assert json.loads(await said(self.neighbour, "who"))["pid"] == self.neighbour_pid
        sandbox = self.neighbour.sandbox
        assert sandbox.alive
        assert isinstance(await sandbox.request("stats", 10), dict)
        assert self.engine.api.inspect_container(sandbox.id)["State"]["Running"]

    def assert_limited(self, session: Session) -> None:
        """Before a bomb goes off: that the kernel, not only the engine's records, bounds its container."""
        found: dict[str, Any] = self.engine.api.inspect_container(session.sandbox.id)
        host = found["HostConfig"]
        assert host["Memory"] == host["MemorySwap"] == MEMORY_MB << 20
        assert host["PidsLimit"] == PIDS
        assert host["NanoCpus"] == 1_000_000_000
        for name, value in (("memory", MEMORY_MB << 20), ("pids", PIDS)):
            limit = _cgroup_limit(int(found["State"]["Pid"]), name)
            if limit != value:
                pytest.skip(
                    f"{self.level}: the kernel bounds {name} by {limit}, not {value}: no bomb is set off"
                )


def _cgroup_limit(pid: int, controller: str) -> int | None:
    """A limit of the control group that a process is in, by version 1 or 2."""
    root = Path("/sys/fs/cgroup")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            file = root / path.lstrip("/") / f"{controller}.max"
        elif controller in names.split(","):
            name = "memory.limit_in_bytes" if controller == "memory" else "pids.max"
            file = root / names / path.lstrip("/") / name
        else:
            continue
        if file.exists() and (text := file.read_text().strip()).isdigit():
            return int(text)
    return None


def skip_without(engine: docker.DockerClient, runtime: str) -> None:
    known: dict[str, Any] = engine.api.info()["Runtimes"]
    if runtime not in known:
        pytest.skip(f"the engine knows no runtime {runtime}, only {', '.join(known)}")


@asynccontextmanager
async def cell_of(
    level: Level, image: str, engine: docker.DockerClient, allow: Sequence[str] = (), **limits: Any
) -> AsyncIterator[Cell]:
    """A cell, whose programs may reach some hosts; when it is given up, nothing of it is left."""
    skip_without(engine, level.runtime)
    settings = SandboxSettings.model_validate(
        {
            "image": image,
            "runtime": level.runtime,
            "recycle": level.recycle,
            "session_users": level.users,
            "memory_mb": MEMORY_MB,
            "pids": PIDS,
            "scratch_mb": SCRATCH_MB,
            "cpus": 1.0,
            "allow": list(allow),
            "session_limits": limits,
        }
    )
    owner = Owner("test-run", f"test-{uuid.uuid4().hex[:8]}")
    pool = SandboxPool(dummy(), settings, owner, ahead=0)
    cell = Cell(level, pool, engine)
    try:
        await cell.move_in()
        yield cell
    finally:
        await pool.close()
    labels = {"label": f"{ownership.WORKER}={owner.worker_id}"}
    assert engine.api.containers(all=True, filters=labels) == []


def container_of(session: Session) -> str:
    assert isinstance(session.sandbox, DockerSandbox)
    return session.sandbox.id
