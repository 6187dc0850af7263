"""The bundle on an engine: a volume, which containers of any image get read-only."""

from typing import Any, cast

import docker.errors
from docker.types import Mount

from sandbox_images import engine
from sandbox_images.build import build_image, image_tag
from sandbox_images.host import ImageBuildError, OnLine, hold_lock

BUNDLE = "bundle"
HOME = "/opt/kumite"
_TRIAL = "import asyncio, ctypes, ssl, sandbox_images.tool_host.server"
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
    name = volume_name()
    with hold_lock(f"volume-{name}"):
        if _exists(name):
            return name
        image = build_image(BUNDLE, on_line=on_line)
        on_line(f"tool host: putting {image} into the volume {name}")
        with engine.connect_engine(engine.BUILD_TIMEOUT) as client:
            api: Any = client.api
            api.create_volume(name, labels={_LABEL: image})
            try:
                made = api.create_container(
                    image,
                    command=[
                        f"{HOME}/bin/python3",
                        "-I",
                        "-c",
                        "import sandbox_images.tool_host.server, ssl",
                    ],
                    host_config=api.create_host_config(
                        mounts=[Mount(HOME, name, type="volume")], network_mode="none"
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
                        f"tool host: the bundle does not run (exit {status}): {said[-500:]}"
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
