"""The containers of a run on the engine, as its labels tell them from everyone else's."""

from contextlib import closing, suppress

import docker
import docker.errors

from workers.sandbox import ownership


def containers(run_id: str) -> list[str]:
    """Ids of a run's containers. Its id is the last part of `--out`: give it one that no other run has."""
    with _engine() as client:
        found = client.api.containers(all=True, filters={"label": [f"{ownership.RUN}={run_id}"]})
        return [container["Id"] for container in found]


def remove_container(container: str) -> None:
    with _engine() as client, suppress(docker.errors.APIError):  # its own end may come first
        client.api.remove_container(container, force=True)


def kill_container(container: str) -> bool:
    """Kills what runs in a container; says whether it was still there."""
    with _engine() as client:
        try:
            client.api.kill(container)
        except docker.errors.APIError:
            return False
    return True


def tool_host(container: str) -> int:
    """The process id, on this machine, of the first process in a container."""
    with _engine() as client:
        return int(client.api.inspect_container(container)["State"]["Pid"])


def _engine() -> "closing[docker.DockerClient]":
    return closing(docker.from_env(timeout=30))
