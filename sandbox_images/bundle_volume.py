"""Volumes of an engine that containers of any image get read-only: the tool host, and harnesses' programs."""

from typing import Any, cast

import docker.errors
from docker.types import Mount

from sandbox_images import engine
from sandbox_images.build import build_image, image_tag, programs_digest
from sandbox_images.host import ImageBuildError, OnLine, hold_lock

BUNDLE = "bundle"
HOME = "/opt/kumite"
PROGRAMS_HOME = "/opt/harness"
"""Where images have the packages of harnesses' programs: see `program.Dockerfile`."""
_LABEL = "kumite.bundle"


def volume_name() -> str:
    """Returns the name of the volume with the tool host as its sources are now."""
    return image_tag(BUNDLE).replace(":", "-")


def ensure_volume(on_line: OnLine = lambda line: None) -> str:
    """Has the engine have the volume; builds the bundle where it is not there.

    The engine copies it out of the bundle's image, so that it needs no folder of this machine: it works with
    an engine elsewhere, too.

    Returns:
        Its name.

    Raises:
        ImageBuildError: It cannot be made.
    """
    trial = [f"{HOME}/bin/python3", "-I", "-c", "import sandbox_images.tool_host.server, ssl"]
    return _ensure(volume_name(), BUNDLE, HOME, trial, on_line)


def programs_volume_name(image: str) -> str | None:
    """Returns the name of the volume with the programs of one of our images; null for one that has none."""
    digest = programs_digest(image)
    return None if digest is None else f"kumite-programs-{image}-{digest}"


def ensure_programs_volume(image: str, on_line: OnLine = lambda line: None) -> None:
    """Has the engine have the volume with the programs of one of our images, if it has some.

    Raises:
        ImageBuildError: It cannot be made.
    """
    name = programs_volume_name(image)
    if name is not None:
        _ensure(name, image, PROGRAMS_HOME, ["python3", "-c", ""], on_line)


def _ensure(name: str, image_name: str, home: str, trial: list[str], on_line: OnLine) -> str:
    """Has a volume hold what an image has in a folder; a container that runs a trial command fills it."""
    with hold_lock(f"volume-{name}"):
        if _exists(name):
            return name
        image = build_image(image_name, on_line=on_line)
        on_line(f"putting {home} of {image} into the volume {name}")
        with engine.connect_engine(engine.BUILD_TIMEOUT) as client:
            api: Any = client.api
            api.create_volume(name, labels={_LABEL: image})
            try:
                made = api.create_container(
                    image,
                    entrypoint=[],
                    command=trial,
                    host_config=api.create_host_config(
                        mounts=[Mount(home, name, type="volume")], network_mode="none"
                    ),
                )
                try:
                    api.start(made["Id"])
                    status = api.wait(made["Id"], timeout=120)["StatusCode"]
                    said = cast(bytes, api.logs(made["Id"])).decode(errors="replace")
                finally:
                    api.remove_container(made["Id"], force=True)
                if status != 0:
                    raise ImageBuildError(
                        f"{image_name}: {trial[0]} does not run (exit {status}): {said[-500:]}"
                    )
            except BaseException:
                api.remove_volume(name, force=True)
                raise
    return name


def _exists(name: str) -> bool:
    with engine.connect_engine() as client:
        try:
            client.api.inspect_volume(name)
        except docker.errors.NotFound:
            return False
    return True
