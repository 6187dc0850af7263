"""Whose container is this: the labels that a sandbox carries, and the sweep of those whose owner is dead.

The first line against leaks is the pipe: a tool host exits when its owner's end closes. Labels are the
second, for an engine that was restarted or a container that never got as far as its pipe.
"""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors
import requests

from workers.errors import SandboxStartError
from workers.process_ids import read_start_time
from workers.sandbox.base import Owner
from workers.sandbox.engine import engine

RUN, WORKER, NODE, OWNER = "kumite.run", "kumite.worker", "kumite.node", "kumite.owner"


@cache
def node() -> str:
    """This machine as far as process ids go: host name, boot and process-id namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    boot_id = boot.read_text().strip()[:8] if boot.exists() else "unknown"
    return f"{socket.gethostname()}-{boot_id}-{os.stat('/proc/self/ns/pid').st_ino}"


def labels(owner: Owner) -> dict[str, str]:
    """Labels of a container that this process owns."""
    pid = os.getpid()
    return {
        RUN: owner.run_id,
        WORKER: owner.worker_id,
        NODE: node(),
        OWNER: f"{pid}:{read_start_time(pid)}",
    }


def sweep() -> list[str]:
    """Removes this node's containers whose owner is dead; never another tool's, never a live owner's.

    Returns:
        Ids of the containers that were removed.

    Raises:
        SandboxStartError: The engine does not answer, or refuses.
    """
    try:
        with engine() as client:
            return _sweep(client)
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise SandboxStartError(f"the Docker engine could not be asked for containers: {error}") from error


def _sweep(client: docker.DockerClient) -> list[str]:
    removed: list[str] = []
    mine = {"label": [f"{NODE}={node()}", RUN]}
    for summary in cast(list[dict[str, Any]], client.api.containers(all=True, filters=mine)):
        pid, _, since = str(summary["Labels"].get(OWNER, "")).partition(":")
        if not pid.isdigit() or read_start_time(int(pid)) == since:
            continue
        try:
            client.api.remove_container(summary["Id"], force=True)
            removed.append(summary["Id"])
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # gone, or going
                raise
    return removed
