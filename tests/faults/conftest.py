import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from tests.helpers.engine_fixtures import dummy_image, engine
from tests.helpers.leftovers import Holdings, assert_nothing_left
from tests.helpers.sandboxes import dummy
from workers.sandbox import connection
from workers.sandbox import docker as docker_backend
from workers.sandbox.base import Owner, Sandbox, Session
from workers.sandbox.docker import DockerSandbox
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings

__all__ = ["dummy_image", "engine", "pools", "short_grace"]


class Pools:
    """Pools of one run, and every container they had."""

    def __init__(self, image: str) -> None:
        self.run = f"test-{uuid.uuid4().hex[:8]}"
        self.made: list[SandboxPool] = []
        self.containers: set[str] = set()
        self._image = image

    def make(self, preload: str | None = None, ahead: int = 0, **settings: object) -> SandboxPool:
        """A pool with small limits."""
        fields = {"image": self._image, "memory_mb": 256, "pids": 64, "scratch_mb": 16, "recycle": "fork"}
        owner = Owner(self.run, f"{self.run}-{len(self.made)}")
        checked = SandboxSettings.model_validate({**fields, **settings})
        self.made.append(SandboxPool(dummy(preload=preload), checked, owner, ahead))
        return self.made[-1]

    async def session(self, pool: SandboxPool, name: str | None = None) -> Session:
        session = await pool.acquire(name or uuid.uuid4().hex[:12])
        self.note(session.sandbox)
        await session.open({})
        return session

    def note(self, sandbox: Sandbox) -> None:
        assert isinstance(sandbox, DockerSandbox)
        self.containers.add(sandbox.id)

    async def close(self) -> None:
        await asyncio.gather(*(pool.close() for pool in self.made))


@pytest.fixture
async def pools(
    dummy_image: str, engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pools]:
    """Pools that must leave nothing behind, whatever was done to them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # others' temporary files are not to be counted
    engine.api.ping()
    made = Pools(dummy_image)
    before = Holdings.now(engine, made.run)
    yield made
    await made.close()
    await asyncio.to_thread(assert_nothing_left, before, engine, made.run, made.containers)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker loses patience 1 s after the tool host should have."""
    for module in (connection, docker_backend):
        monkeypatch.setattr(module, "GRACE", 1.0)
