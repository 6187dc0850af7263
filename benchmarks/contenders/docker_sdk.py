"""The usual ways with the Docker SDK: a container for every episode, `docker exec` for every tool call."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, cast

import docker
from docker.models.containers import Container

TIMEOUT = 60
"""Seconds that the engine has for one answer; also the most that a container may take to get ready."""
COMMANDS = {"true": ["true"], "python": ["python3", "-c", "pass"]}
"""What is executed in the place of a tool: nothing, and a Python interpreter that does nothing."""
_LABEL = "kumite.benchmark"
_SETUP = Path(__file__).with_name("agentdojo_setup.py").read_text()


def measure(
    client: docker.DockerClient, image: str, pairs: list[dict[str, Any]], at_once: int, scale: float
) -> dict[str, Any]:
    """All measures by name: lists of seconds, and bytes a container."""
    found: dict[str, Any] = {
        "open": [_open_and_close(client, image, pair) for pair in pairs[: max(3, int(20 * scale))]]
    }
    with _episode_container(client, image, pairs[0]) as container:
        for name, command in COMMANDS.items():
            found[name] = [_run_in_container(container, command) for _ in range(max(3, int(50 * scale)))]
        found["memory"] = memory_bytes(client, str(container.id))
    found["at once"] = [_seconds_until_all_ready(image, pairs[:at_once])]
    return found


@contextmanager
def connect_engine() -> Generator[docker.DockerClient]:
    """A client; when it is closed, no container of this module is left."""
    client = docker.from_env(timeout=TIMEOUT)
    try:
        yield client
    finally:
        for container in client.containers.list(all=True, filters={"label": _LABEL}):
            container.remove(force=True)
        client.close()


def memory_bytes(client: docker.DockerClient, container: str) -> int:
    """Memory of a container as `docker stats` shows it: usage without inactive file cache."""
    stats = cast("dict[str, Any]", client.api.stats(container, stream=False, one_shot=True))
    memory = stats["memory_stats"]
    inactive = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
    return int(memory["usage"] - inactive)


@contextmanager
def _episode_container(client: docker.DockerClient, image: str, task: dict[str, Any]) -> Generator[Container]:
    """A container in which a fresh Python process holds one episode's AgentDojo environment, ready."""
    container = client.containers.run(
        image,
        ["-c", _SETUP, "v1.2.2", task["suite"], task["user_task"], task["injection_task"], task["attack"]],
        entrypoint=["python3"],
        detach=True,
        network_mode="none",
        labels={_LABEL: "peer"},
    )
    try:
        _wait_until_ready(container)
        yield container
    finally:
        container.remove(force=True)


def _wait_until_ready(container: Container) -> None:
    for line in container.logs(stream=True, follow=True):
        if line.strip() == b"ready":
            return
    raise RuntimeError(f"the peer's container ended: {container.logs(tail=5)!r}")


def _open_and_close(client: docker.DockerClient, image: str, task: dict[str, Any]) -> float:
    began = time.perf_counter()
    with _episode_container(client, image, task):
        pass
    return time.perf_counter() - began


def _seconds_until_all_ready(image: str, tasks: list[dict[str, Any]]) -> float:
    """Seconds until the last of the containers is ready; none is removed before."""
    all_ready = Barrier(len(tasks), timeout=5 * TIMEOUT)

    def ready_at(task: dict[str, Any]) -> float:
        client = docker.from_env(timeout=TIMEOUT)
        try:
            with _episode_container(client, image, task):
                now = time.perf_counter()
                all_ready.wait()
                return now
        except BaseException:
            all_ready.abort()
            raise
        finally:
            client.close()

    with ThreadPoolExecutor(len(tasks)) as threads:
        began = time.perf_counter()
        return max(threads.map(ready_at, tasks)) - began


def _run_in_container(container: Container, command: list[str]) -> float:
    began = time.perf_counter()
    code, output = container.exec_run(command)
    seconds = time.perf_counter() - began
    if code != 0:
        raise RuntimeError(f"the peer's {command} failed: {output!r}")
    return seconds
