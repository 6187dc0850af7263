"""The policy that stays up between runs: how it is brought up, how it is, and its end."""

import time
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from cluster.config import RayConfig, RunConfig, VllmPolicy
from cluster.errors import ConfigError, PolicyInUse, PolicyUnavailable
from cluster.policy.api_requests import list_models
from cluster.policy.base import OnStage
from cluster.policy.vllm.capacity import required_cpus
from cluster.policy.vllm.client import check_vllm, open_vllm
from cluster.policy.vllm.deployment import update_deployment
from cluster.policy.vllm.kept_record import KeptPolicy, forget_kept_policy, read_kept_policy
from cluster.policy.vllm.serving import delete_application
from cluster.policy.weights.probe import AdapterProbe
from cluster.policy.weights.versions import VersionFolder
from cluster.ray_session import kept as kept_ray
from cluster.ray_session.session import connect


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


def read_policy_status() -> PolicyStatus | None:
    """Reads which policy is kept, and its state; None if none is. It takes seconds at most without Ray."""
    policy = read_kept_policy()
    if policy is None:
        return None
    try:
        answers = policy.model in list_models(policy.base_url, timeout=5.0)
    except (OSError, HTTPException, ValueError):
        answers = False
    return PolicyStatus(
        policy=policy,
        state="ready" if answers else "not answering",
        in_use=kept_ray.has_leases(),
        uptime=time.time() - policy.started_at,
        version=_open_kept_versions(policy).version,
    )


def update_kept_policy(path: Path | str, version: int) -> None:
    """Gives the kept policy new weights. Runs in flight take them up, too.

    Args:
        path: Folder of a LoRA adapter, or of a full checkpoint, or its URI.
        version: Its version.

    Raises:
        UpdateRefused: The policy does not take it; the version before keeps serving.
        PolicyUnavailable: No policy is kept, or it does not answer.
    """
    policy = read_kept_policy()
    if policy is None:
        raise PolicyUnavailable("no policy is kept; `kumite policy up` brings one up")
    versions = _open_kept_versions(policy)
    if not policy.shared:
        raise versions.unshared()
    probe = AdapterProbe(policy.base_url, policy.model, policy.probe)
    update_deployment(versions, policy.base_url, str(path), version, probe)


def _open_kept_versions(policy: KeptPolicy) -> VersionFolder:
    names = [policy.model]
    return VersionFolder(policy.versions, policy.model_folder, policy.max_rank, policy.kept_versions, names)


def start_kept_policy(config: RunConfig, on_stage: OnStage) -> str:
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


def stop_kept_policy(force: bool = False) -> bool:
    """Ends the kept policy, and the local Ray cluster kept for it.

    Args:
        force: End it even so.

    Returns:
        Whether there was anything to end.

    Raises:
        PolicyInUse: A run is connected to its cluster.
        RayUnavailable: It is on a cluster that someone else runs, which cannot be joined.
    """
    policy = read_kept_policy()
    if not force and kept_ray.has_leases():
        raise PolicyInUse("a run is using the kept policy: wait for its end, or use --force")
    if policy is not None and not policy.local:
        with connect(RayConfig(address=policy.ray_address)):
            delete_application(policy.application)
    stopped = kept_ray.stop_kept()
    if policy is not None:
        _open_kept_versions(policy).clear()
    forget_kept_policy()
    return stopped or policy is not None
