"""Containers that an engine in trouble does not remove when they end."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests

from tests.helpers.sandboxes import dummy
from workers.sandbox.base import Owner
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings


class Engine:
    """Has these containers; removes none while it is in trouble, and says so."""

    def __init__(self, *containers: str) -> None:
        self.containers = set(containers)
        self.in_trouble = True

    def wait(self, container: str, **_: Any) -> dict[str, Any]:
        return {"StatusCode": 137, "Error": {"Message": "device or resource busy"}}

    def remove_container(self, container: str, force: bool) -> None:
        answer = requests.Response()
        answer.status_code = 409 if self.in_trouble else 404
        if self.in_trouble:
            raise docker.errors.APIError("removal is already in progress", answer)
        if container not in self.containers:
            raise docker.errors.NotFound("no such container", answer)
        self.containers.remove(container)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    found = Engine("a" * 64, "b" * 64)

    @contextmanager
    def connected() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(api=found)

    monkeypatch.setattr("workers.sandbox.docker.engine", connected)
    return found


def sandbox(container: str) -> DockerSandbox:
    made = DockerSandbox(dummy(), SandboxSettings(), Owner("run", "worker"))
    made._container, made.is_up = container, True
    return made


async def test_a_container_that_the_engine_could_not_remove_is_removed_when_it_can(engine: Engine) -> None:
    await sandbox("a" * 64).stop()
    assert "a" * 64 in engine.containers
    engine.in_trouble = False
    await sandbox("b" * 64).stop()
    assert engine.containers == set()
