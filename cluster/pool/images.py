"""The sandbox image of a run: found, pulled, or built when it is one of ours."""

from collections.abc import Callable
from typing import Any

import docker
import docker.errors
import requests

from cluster.errors import RunError
from sandbox_images import build, bundle_volume
from sandbox_images.host import ImageBuildError, hold_lock
from workers.sandbox.architecture import describe_other_architecture
from workers.sandbox.engine import engine
from workers.sandbox.toolset_spec import ToolsetSpec
from workers.settings import SandboxSettings


def resolve_image_tag(spec: ToolsetSpec, settings: SandboxSettings) -> str:
    """The tag of the image to run, whether it is there or not.

    Raises:
        RunError: The config names none, and there is none of ours for this environment.
    """
    named = settings.image or spec.own_image
    if named is not None:
        return named
    try:
        return build.image_tag(spec.image)
    except ImageBuildError as error:
        raise RunError(
            f"sandbox.image is missing: the environment's toolset wants an image {spec.image!r}, which is "
            f"none of those that Kumite builds ({', '.join(build.image_names())}). Build it, "
            f"`docker build -t {spec.image}:1 .`, and name it: sandbox.image: {spec.image}:1 "
            "(docs/environments.md has one)"
        ) from error


def read_image_id(tag: str) -> str | None:
    """Reads the id of an image that this machine's engine has; None where it has none, or does not answer."""
    try:
        with engine() as client:
            return client.images.get(tag).id
    except (docker.errors.DockerException, requests.RequestException):
        return None


def _is_bundled_image(spec: ToolsetSpec, tag: str) -> bool:
    return spec.image in build.image_names() and tag == build.image_tag(spec.image)


def ensure_image(
    spec: ToolsetSpec,
    settings: SandboxSettings,
    say: Callable[[str], None] = lambda line: None,
    *,
    pull: bool = False,
) -> str:
    """Pulls or builds the image to run, unless this machine's engine has it.

    Args:
        spec: What the environment asks for.
        settings: What the config says.
        say: Is told how a build goes on.
        pull: Whether to ask a registry for an image that the config names and that is not there.

    Returns:
        What was done: `… is there`, `built …`, `pulled …`.

    Raises:
        RunError: No engine answers, an image that the config or a task names is not there, or ours can't be
            built.
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
    tag = resolve_image_tag(spec, settings)
    done = _ensure_only_image(spec, tag, say, pull)
    for image in spec.task_images:
        _ensure_task_image(image, pull)
    for image in (tag, *spec.task_images):
        _check_image(image)
        if settings.tool_host in (None, bundle_volume.volume_name()):
            _ensure_tool_host(image, spec, say)
    return done


def with_image(spec: ToolsetSpec, settings: SandboxSettings) -> SandboxSettings:
    """The settings with the image to run, and the tool host for one that brings none."""
    tool_host = settings.tool_host or bundle_volume.volume_name()
    return settings.model_copy(update={"image": resolve_image_tag(spec, settings), "tool_host": tool_host})


def _ensure_only_image(spec: ToolsetSpec, tag: str, say: Callable[[str], None], pull: bool) -> str:
    if build.image_exists(tag):
        return f"{tag} is there"
    if _is_bundled_image(spec, tag):
        try:
            build.build_image(spec.image, on_line=say)
        except ImageBuildError as error:
            raise RunError(f"image {tag} could not be built: {error}") from error
        return f"built {tag}"
    why = _pull_image(tag) if pull else ""
    if why is None:
        return f"pulled {tag}"
    raise RunError(
        f"sandbox.image: the Docker engine has no image {tag!r}{why}; {_suggest_remedy(spec, tag)}"
    )


def _ensure_task_image(image: str, pull: bool) -> None:
    """Pulls an image that a task names, unless this machine's engine has it."""
    if build.image_exists(image):
        return
    why = _pull_image(image) if pull else ""
    if why is not None:
        raise RunError(
            f"a task names the image {image!r}, and the Docker engine has none{why}; build it, `docker build "
            f"-t {image} .`, `docker pull {image}` it, or leave the task out"
        )


def _check_image(image: str) -> None:
    """Sees that this machine's engine can run an image that it has."""
    with engine() as client:
        api: Any = client.api
        problem = describe_other_architecture(api, image, api.inspect_image(image))
    if problem is not None:
        raise RunError(problem)


def _ensure_tool_host(image: str, spec: ToolsetSpec, say: Callable[[str], None]) -> None:
    """Makes the volumes with the tool host and the toolset's programs, if an image brings none."""
    try:
        if not build.has_tool_host(image):
            bundle_volume.ensure_volume(say)
            if spec.image in build.image_names():
                bundle_volume.ensure_programs_volume(spec.image, say)
    except ImageBuildError as error:
        raise RunError(f"sandbox.image: the tool host for {image} could not be built: {error}") from error


def _suggest_remedy(spec: ToolsetSpec, tag: str) -> str:
    """Suggests what to do about a missing image that the config names, if anything works for it."""
    if spec.image in build.image_names() and "/" not in tag and tag.startswith("kumite-"):
        return (
            "leave it out to use the environment's own, as its sources are now, which `kumite images build "
            f"{spec.image}` makes"
        )
    ways = f"build it with your own Dockerfile, `docker build -t {tag} .`, or `docker pull {tag}` it"
    if spec.image in build.image_names():
        ways += (
            f"; or leave it out to use the environment's own, which `kumite images build {spec.image}` makes"
        )
    return ways


def _pull_image(tag: str) -> str | None:
    """Pulls an image, once for all who ask at the same time on this machine; says why it could not."""
    repository, colon, version = tag.rpartition(":")
    if not colon or "/" in version:
        repository, version = tag, "latest"
    with hold_lock(f"pull-{tag.replace('/', '_')}"):
        if build.image_exists(tag):
            return None
        try:
            with engine() as client:
                client.images.pull(repository, version)
        except (docker.errors.DockerException, requests.RequestException) as error:
            return f", and it cannot be pulled: {error}"
    return None
