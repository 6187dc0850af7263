"""Any Linux image as a sandbox: what it brings, and how the tool host comes into one that brings none."""

from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
from docker.types import Mount

from sandbox_images.bundle_volume import PROGRAMS_HOME
from workers.errors import SandboxStartError
from workers.sandbox.architecture import describe_other_architecture

HOME = "/opt/kumite"
"""Where the tool host is in a container, in ours and in others' images."""
_ENTRYPOINT = [f"{HOME}/bin/python3.11", "-I", "-m", "sandbox_images.tool_host"]
_LOADER = "LD_"
"""Variables that begin so change what the dynamic loader does: an image's are for its own programs."""


@dataclass(frozen=True)
class ImageFacts:
    """What matters of an image."""

    has_tool_host: bool
    variables: tuple[tuple[str, str], ...]
    """Its variables for the dynamic loader."""
    volumes: tuple[str, ...]
    """Folders that it declares as volumes: an engine would give each unbounded room on its disk."""


_known: dict[tuple[str, str], ImageFacts] = {}
"""Images that this process has looked at, by engine: a run's does not change under it."""


def inspect_image(client: docker.DockerClient, image: str) -> ImageFacts:
    """What an engine's image brings.

    Raises:
        docker.errors.ImageNotFound: There is none.
        SandboxStartError: It is another architecture's.
    """
    key = str(client.api.base_url), image
    if key not in _known:
        _known[key] = _inspect(client.api, image)
    return _known[key]


def _inspect(api: Any, image: str) -> ImageFacts:
    found: dict[str, Any] = api.inspect_image(image)
    if problem := describe_other_architecture(api, image, found):
        raise SandboxStartError(problem)
    config: dict[str, Any] = found.get("Config") or {}
    lines: list[str] = config.get("Env") or []
    pairs = [line.partition("=") for line in lines]
    return ImageFacts(
        has_tool_host="sandbox_images.tool_host" in (config.get("Entrypoint") or []),
        variables=tuple((name, value) for name, _, value in pairs if name.startswith(_LOADER)),
        volumes=tuple(sorted(config.get("Volumes") or {})),
    )


def tool_host_mount(client: docker.DockerClient, image: str, volume: str | None) -> Mount:
    """The tool host for an image that brings none: a volume of the engine, read-only.

    Raises:
        SandboxStartError: The engine does not have it.
    """
    if volume is None:
        raise SandboxStartError(
            f"sandbox.image: {image} has no tool host, and sandbox.tool_host names no volume that has one; "
            "`kumite images build bundle` makes it and prints its name"
        )
    try:
        client.api.inspect_volume(volume)
    except docker.errors.NotFound as error:
        raise SandboxStartError(
            f"sandbox.tool_host: this node's engine has no volume {volume}. {image} needs it, as it has no "
            "tool host of its own; `kumite images build bundle` makes it"
        ) from error
    return Mount(HOME, volume, type="volume", read_only=True, no_copy=True)


def programs_mount(client: docker.DockerClient, volume: str) -> Mount | None:
    """The programs of harnesses for an image that has none of them: a volume of the engine, read-only.

    Returns:
        Null where the engine does not have it.
    """
    try:
        client.api.inspect_volume(volume)
    except docker.errors.NotFound:
        return None
    return Mount(PROGRAMS_HOME, volume, type="volume", read_only=True, no_copy=True)


def container_options(facts: ImageFacts, home: str | None) -> dict[str, Any]:
    """How a container of an image without a tool host is started, as the SDK's arguments.

    Args:
        facts: Of the image.
        home: The folder that its programs may write to, where its own can't be written to.
    """
    variables = {name: "" for name, _ in facts.variables}
    if home is not None:
        variables |= {"HOME": home, "TMPDIR": home}
    return {"entrypoint": _ENTRYPOINT, "environment": variables, "healthcheck": {"test": ["NONE"]}}
