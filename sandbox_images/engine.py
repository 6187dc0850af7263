"""The Docker engine as the image builder uses it: look an image up, pull one, build one without a network."""

import json
import tarfile
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import docker
import docker.errors

from sandbox_images.host import ImageBuildError, OnLine, cache_dir

BUILD_TIMEOUT = 600.0
"""Seconds that a build may go without printing a line; byte-compiling prints none for half a minute."""
_IGNORED_OUTPUT = ("--->", "Removing intermediate container")
PULL_TIMEOUT = 20.0
"""Seconds that a registry may go without saying anything before it counts as unreachable."""


@contextmanager
def connect_engine(timeout: float = 30.0) -> Generator[docker.DockerClient]:
    """Connects to the engine that `DOCKER_HOST` names, or the local one.

    Raises:
        ImageBuildError: If none answers.
    """
    try:
        client = docker.from_env(timeout=int(timeout))
    except docker.errors.DockerException as error:
        raise ImageBuildError(f"Docker engine: {error}; `make engine` starts a local one") from None
    try:
        yield client
    except (docker.errors.APIError, OSError) as error:  # requests' errors are OSErrors
        raise ImageBuildError(f"Docker engine: {error}") from error
    finally:
        client.close()


def read_image_labels(image: str) -> dict[str, str] | None:
    """Returns an image's labels, or null if the engine does not have the image."""
    with connect_engine() as client:
        try:
            config = cast(dict[str, Any], client.api.inspect_image(image))["Config"]
            return config.get("Labels") or {}
        except docker.errors.ImageNotFound:
            return None


def entrypoint(image: str) -> list[str] | None:
    """Returns what an image starts, or null if the connect_engine does not have the image."""
    with connect_engine() as client:
        try:
            config = cast(dict[str, Any], client.api.inspect_image(image))["Config"]
            return config.get("Entrypoint") or []
        except docker.errors.ImageNotFound:
            return None


def read_image_id(image: str) -> str:
    """Returns the id of an image that the engine has."""
    with connect_engine() as client:
        return str(cast(dict[str, Any], client.api.inspect_image(image))["Id"])


def read_machine() -> str:
    """Returns the engine's architecture as kernels and wheels name it: `x86_64` or `aarch64`."""
    with connect_engine() as client:
        name = str(client.version()["Arch"])
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def pull_image(image: str) -> str | None:
    """Pulls an image; returns null, or what went wrong."""
    try:
        with connect_engine(PULL_TIMEOUT) as client:
            for event in cast(Iterable[dict[str, Any]], client.api.pull(image, stream=True, decode=True)):
                if "error" in event:
                    return str(event["error"])
    except ImageBuildError as error:
        return str(error)
    return None


def run_build(
    tag: str,
    dockerfile: Path,
    context: Mapping[str, Path],
    *,
    arguments: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    on_line: OnLine,
) -> None:
    """Builds an image. Steps have no network.

    Args:
        tag: Its name, given to it when it is complete.
        dockerfile: The Dockerfile to follow.
        context: What the Dockerfile may copy: files and folders by their name in the build context.
        arguments: Values of the Dockerfile's ARGs.
        labels: Labels of the image.
        on_line: Takes what the build prints, without its talk of layers and containers.

    Raises:
        ImageBuildError: If a step fails; with the end of the build's output.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with tempfile.TemporaryFile(dir=cache_dir()) as file, connect_engine(BUILD_TIMEOUT) as client:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.add(dockerfile, "Dockerfile", filter=_normalise_member)
            for name, path in context.items():
                tar.add(path, name, filter=_normalise_member)
        file.seek(0)
        events = client.api.build(
            fileobj=file,
            custom_context=True,
            tag=tag,
            buildargs=dict(arguments or {}),
            labels=dict(labels or {}),
            network_mode="none",
            rm=True,
            forcerm=True,
            decode=True,
        )
        for event in events:
            if "error" in event:
                tail = "\n".join(lines[-15:])
                raise ImageBuildError(f"image {tag}: {json.dumps(event['error'])}\n{tail}")
            for line in str(event.get("stream", "")).splitlines():
                if line.strip():
                    lines.append(line.rstrip())
                    if not line.lstrip().startswith(_IGNORED_OUTPUT):
                        on_line(lines[-1])


def _normalise_member(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Makes a build the same whoever runs it: no owners, times or private modes; and no byte code."""
    if member.name.endswith((".pyc", "__pycache__")):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
