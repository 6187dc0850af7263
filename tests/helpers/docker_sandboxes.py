"""Containers of a test's own, and whose they are."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import docker
import docker.errors

from tests.helpers.sandboxes import dummy
from workers.sandbox import ownership
from workers.sandbox.base import Owner, ToolsetSpec
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings


def owner() -> Owner:
    return Owner("test-run", f"test-{uuid.uuid4().hex[:8]}")


def owned(engine: docker.DockerClient, who: Owner) -> list[str]:
    """Ids of the containers of an owner, running or not."""
    found = engine.api.containers(all=True, filters={"label": f"{ownership.WORKER}={who.worker_id}"})
    return [str(container["Id"]) for container in found]


@asynccontextmanager
async def docker_sandbox(
    settings: SandboxSettings, who: Owner | None = None, spec: ToolsetSpec | None = None
) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(spec or dummy(), settings, who or owner())
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.stop()
