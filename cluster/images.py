"""The sandbox image of a run: found, or built when it is one of ours."""

import docker
import docker.errors
import requests

from cluster.errors import RunError
from cluster.progress import Stage
from sandbox_images import build
from sandbox_images.host import ImageBuildError
from workers.sandbox.base import ToolsetSpec
from workers.sandbox.engine import engine
from workers.settings import SandboxSettings


def ensure_image(spec: ToolsetSpec, settings: SandboxSettings, stage: Stage) -> str:
    """The tag of the image to run, which is there when this returns.

    Raises:
        RunError: No engine answers, the image that the config names is not there, or ours can't be built.
    """
    try:
        with engine() as client:
            client.ping()
            runtimes = client.info().get("Runtimes", {})
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise RunError(
            f"sandbox.backend is `docker`, but no Docker engine answers: {error}; `make engine` starts one"
        ) from error
    if settings.runtime is not None and settings.runtime not in runtimes:
        raise RunError(
            f"sandbox.runtime: the Docker engine has no runtime {settings.runtime!r}; it has "
            f"{', '.join(sorted(runtimes))}"
        )
    if settings.image is not None:
        if not build.image_exists(settings.image):
            raise RunError(
                f"sandbox.image: the Docker engine has no image {settings.image!r}; leave it out to use the "
                f"environment's own, which `kumite images build {spec.image}` makes"
            )
        return settings.image
    tag = build.image_tag(spec.image)
    if build.image_exists(tag):
        stage.outcome = f"{tag} is there"
        return tag
    try:
        build.build_image(spec.image, on_line=stage.say)
    except ImageBuildError as error:
        raise RunError(f"image {tag} could not be built: {error}") from error
    stage.outcome = f"built {tag}"
    return tag
