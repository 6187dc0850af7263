"""The policy that stays up between runs: its record, how it is, and its end."""

import os
import time
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from cluster.cache import cache_dir
from cluster.config import RayConfig, RunConfig, VllmPolicy
from cluster.errors import ConfigError, PolicyInUse, PolicyUnavailable
from cluster.policy.base import OnStage
from cluster.policy.endpoint import list_models
from cluster.policy.vllm.deployment import update
from cluster.policy.weights.probe import AdapterProbe
from cluster.policy.weights.versions import VersionFolder
from cluster.ray_session import kept as kept_ray


class KeptPolicy(BaseModel):
    """The record of a kept policy."""

    application: str
    """Its Ray Serve application."""
    model: str
    """What requests call the model."""
    base_url: str
    """Root of its API."""
    model_folder: Path | None = None
    """The base model, where it is a folder."""
    commit: str | None = None
    """Of a model of the Hugging Face hub, the commit that it is of, where that is known here."""
    versions: Path
    """Folder of its weights' versions."""
    max_rank: int | None = None
    """Highest rank of an adapter. None: it takes none."""
    kept_versions: int | None = None
    """Adapters that stay, the newest included. None: all."""
    probe: Literal["first", "always", "off"] = "first"
    """Which adapters are compared with what PEFT computes, before they are in use."""
    shared: bool = True
    """Whether all nodes see that folder."""
    ray_address: str
    """The cluster it lives on."""
    local: bool
    """Whether that cluster is one that Kumite keeps on this machine."""
    started_at: float
    """Seconds since the epoch."""


class PolicyStatus(BaseModel):
    """What `kumite policy status` tells."""

    policy: KeptPolicy
    """The policy."""
    state: Literal["ready", "not answering"]
    """Whether it lists its model."""
    in_use: bool
    """Whether a run is connected to its cluster now."""
    uptime: float
    """Seconds since it was started."""
    version: int
    """Version of its weights."""


def status() -> PolicyStatus | None:
    """The kept policy and how it is; None if none is kept. Takes seconds at most, and does not join Ray."""
    policy = recorded()
    if policy is None:
        return None
    try:
        answers = policy.model in list_models(policy.base_url, timeout=5.0)
    except (OSError, HTTPException, ValueError):
        answers = False
    return PolicyStatus(
        policy=policy,
        state="ready" if answers else "not answering",
        in_use=kept_ray.in_use(),
        uptime=time.time() - policy.started_at,
        version=_versions(policy).version,
    )


def update_kept(path: Path | str, version: int) -> None:
    """Gives the kept policy new weights. Runs in flight take them up, too.

    Args:
        path: Folder of a LoRA adapter, or of a full checkpoint, or its URI.
        version: Its version.

    Raises:
        UpdateRefused: The policy does not take it; the version before keeps serving.
        PolicyUnavailable: No policy is kept, or it does not answer.
    """
    policy = recorded()
    if policy is None:
        raise PolicyUnavailable("no policy is kept; `kumite policy up` brings one up")
    versions = _versions(policy)
    if not policy.shared:
        raise versions.unshared()
    probe = AdapterProbe(policy.base_url, policy.model, policy.probe)
    update(versions, policy.base_url, str(path), version, probe)


def _versions(policy: KeptPolicy) -> VersionFolder:
    names = [policy.model]
    return VersionFolder(policy.versions, policy.model_folder, policy.max_rank, policy.kept_versions, names)


def up(config: RunConfig, on_stage: OnStage) -> str:
    """Brings up a run's policy, to be kept; one that does as well stays as it is.

    Args:
        config: The run.
        on_stage: Told what is being waited for.

    Returns:
        What it is, and where it came from, for the user.

    Raises:
        ConfigError: The run's policy is none that Kumite starts.
        PolicyUnavailable: It does not come up.
        PolicyInUse: It would have to replace a kept policy that a run uses.
    """
    from cluster.policy.vllm.client import check_vllm, open_vllm, required_cpus
    from cluster.ray_session.session import connect

    if not isinstance(config.policy, VllmPolicy):
        raise ConfigError(
            f"policy.kind is {config.policy.kind!r}, and there is nothing to bring up; `vllm` is"
        )
    policy = config.policy.model_copy(update={"keep_alive": True})
    check_vllm(policy)
    cpus = required_cpus(policy) + config.workers.max * config.workers.cpus_per_worker
    with (
        connect(config.ray, keep=True, extra_cpus=cpus) as session,
        open_vllm(policy, session, on_stage) as client,
    ):
        return client.outcome


def down(force: bool = False) -> bool:
    """Ends the kept policy, and the local Ray cluster kept for it.

    Args:
        force: End it even so.

    Returns:
        Whether there was anything to end.

    Raises:
        PolicyInUse: A run is connected to its cluster.
        RayUnavailable: It is on a cluster that someone else runs, which cannot be joined.
    """
    policy = recorded()
    if not force and kept_ray.in_use():
        raise PolicyInUse("a run is using the kept policy: wait for its end, or use --force")
    if policy is not None and not policy.local:
        from cluster.policy.vllm.serving import delete_application
        from cluster.ray_session.session import connect

        with connect(RayConfig(address=policy.ray_address)):
            delete_application(policy.application)
    stopped = kept_ray.stop_kept()
    if policy is not None:
        _versions(policy).clear()
    _record().unlink(missing_ok=True)
    return stopped or policy is not None


def record(policy: KeptPolicy) -> None:
    """Notes which policy is kept."""
    path = _record()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}-{os.getpid()}")
    fresh.write_text(policy.model_dump_json())
    fresh.replace(path)


def recorded() -> KeptPolicy | None:
    """The kept policy's record, unless the local cluster it lived on is gone."""
    try:
        policy = KeptPolicy.model_validate_json(_record().read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    kept = kept_ray.find_kept() if policy.local else None
    if policy.local and (kept is None or kept.address != policy.ray_address):
        return None
    return policy


def _record() -> Path:
    return cache_dir() / "policy" / "kept.json"
