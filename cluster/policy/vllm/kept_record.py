"""The record of the policy that stays up between runs."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from cluster.cache import cache_dir
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


def write_kept_policy(policy: KeptPolicy) -> None:
    """Writes down which policy is kept."""
    path = _record_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}-{os.getpid()}")
    fresh.write_text(policy.model_dump_json())
    fresh.replace(path)


def read_kept_policy() -> KeptPolicy | None:
    """Reads which policy is kept; None if none is, or the local cluster it lived on is gone."""
    try:
        policy = KeptPolicy.model_validate_json(_record_path().read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    kept = kept_ray.find_kept() if policy.local else None
    if policy.local and (kept is None or kept.address != policy.ray_address):
        return None
    return policy


def forget_kept_policy() -> None:
    """Removes the record."""
    _record_path().unlink(missing_ok=True)


def _record_path() -> Path:
    return cache_dir() / "policy" / "kept.json"
