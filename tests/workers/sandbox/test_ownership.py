"""Containers of workers that are gone: the next worker on their node removes them."""

import asyncio
import uuid

import docker
import docker.errors
import pytest

from tests.helpers.docker_sandboxes import owner
from workers.sandbox import ownership

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that start meanwhile sweep too, on theirs."""
    name = f"test-{uuid.uuid4().hex}"
    monkeypatch.setattr(ownership, "node", lambda: name)


async def test_sweep_removes_this_nodes_containers_of_dead_owners_only(
    dummy_image: str, engine: docker.DockerClient, own_node: None
) -> None:
    mine = ownership.labels(owner())
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    pid, _, started = mine["kumite.owner"].partition(":")
    labels: dict[str, dict[str, str]] = {
        "dead": {**mine, "kumite.owner": f"{gone.pid}:12345"},
        "another process of the same id": {**mine, "kumite.owner": f"{pid}:{int(started) - 1}"},
        "alive": mine,
        "on another node": {**mine, "kumite.owner": f"{gone.pid}:12345", "kumite.node": "elsewhere"},
        "another tool's": {"kumite.node": mine["kumite.node"], "kumite.owner": f"{gone.pid}:12345"},
        "without an owner": {name: mine[name] for name in ("kumite.run", "kumite.node")},
    }
    made = {
        name: str(engine.api.create_container(dummy_image, labels=label)["Id"])
        for name, label in labels.items()
    }
    try:
        removed = await asyncio.to_thread(ownership.sweep)
        assert {made["dead"], made["another process of the same id"]} <= set(removed)
        left = {container["Id"] for container in engine.api.containers(all=True)}
        assert {name for name, container in made.items() if container in left} == {
            "alive",
            "on another node",
            "another tool's",
            "without an owner",
        }
    finally:
        for container in made.values():
            try:
                engine.api.remove_container(container, force=True)
            except docker.errors.NotFound:
                continue


async def test_sweeps_at_the_same_time_do_not_disturb_each_other(
    dummy_image: str, engine: docker.DockerClient, own_node: None
) -> None:
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    dead = {**ownership.labels(owner()), "kumite.owner": f"{gone.pid}:1"}
    made = {str(engine.api.create_container(dummy_image, labels=dead)["Id"]) for _ in range(4)}
    removed = await asyncio.gather(*(asyncio.to_thread(ownership.sweep) for _ in range(3)))
    assert made <= {container for sweep in removed for container in sweep}
