"""The Docker engine of this node, or the one that DOCKER_HOST names."""

from contextlib import closing

import docker

TIMEOUT = 60
"""Seconds that one call to the engine may take: an engine that hangs must not hang the worker."""


def engine() -> "closing[docker.DockerClient]":
    """A client of its own for each use: the SDK's connections are not to be shared by threads."""
    return closing(docker.from_env(timeout=TIMEOUT))
