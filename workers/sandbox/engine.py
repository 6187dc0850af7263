"""The Docker engine of this node, or the one that DOCKER_HOST names."""

import os
from contextlib import closing

import docker

TIMEOUT = 60
"""Seconds that one call to the engine may take: an engine that hangs must not hang the worker."""
_versions: dict[str | None, str] = {}
"""API versions by engine. To be asked costs it 10 ms: it runs its own programs to say theirs."""


def engine() -> "closing[docker.DockerClient]":
    """A client of its own for each use: the SDK's connections are not to be shared by threads."""
    where = os.environ.get("DOCKER_HOST")
    client = docker.from_env(version=_versions.get(where), timeout=TIMEOUT)
    _versions[where] = client.api.api_version
    return closing(client)
