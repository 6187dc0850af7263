"""A deployment asked by HTTP for what only ours can do: to say how busy it is, and to take new weights."""

import urllib.error
from http.client import HTTPException

from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.endpoint import ask
from cluster.policy.engine_metrics import EngineMetrics, total
from cluster.policy.fetched import fetched
from cluster.policy.versions import VersionFolder

_METRICS_TIMEOUT = 5.0
"""Seconds in which replicas must say how busy they are."""
_TIMEOUT = {"adapter": 120.0, "checkpoint": 3600.0}
"""Seconds in which all replicas must have loaded new weights. One that takes a checkpoint lets its requests
end before."""


def deployment_metrics(base_url: str) -> EngineMetrics:
    """How busy a deployment is, all replicas together.

    Args:
        base_url: Root of its API.

    Raises:
        PolicyUnavailable: It does not answer.
    """
    try:
        told = ask(base_url.removesuffix("/v1"), "kumite/engine", None, _METRICS_TIMEOUT)
        return total(EngineMetrics(**replica) for replica in told)
    except (OSError, HTTPException, ValueError, TypeError) as error:
        raise PolicyUnavailable(f"the policy at {base_url} does not say how busy it is: {error}") from error


def update(versions: VersionFolder, base_url: str, place: str, version: int) -> None:
    """Gives a deployment new weights: put beside the others, loaded by every replica, and only then in use.

    Args:
        versions: Its versions.
        base_url: Root of its API.
        place: Folder of a LoRA adapter, or of a full checkpoint, or its URI.
        version: Its version.

    Raises:
        UpdateRefused: They are not taken; the version before keeps serving.
        PolicyUnavailable: The deployment does not answer.
    """
    with fetched(place) as folder:
        kind = versions.put(folder, version, place)
    try:
        root = base_url.removesuffix("/v1")
        asked = {"version": version, "kind": kind, "oldest": versions.oldest()}
        told = ask(root, "kumite/versions", None, _TIMEOUT[kind], asked)
        if told["refusals"]:
            raise UpdateRefused(f"the {kind} {place}: vLLM does not load it: {told['refusals'][0]}")
        busy: list[int] = told["busy"]
    except (OSError, HTTPException, ValueError, KeyError) as error:
        said = (
            error.read(2000).decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else error
        )
        versions.drop(version)
        raise PolicyUnavailable(f"the policy at {base_url} did not load version {version}: {said}") from error
    except UpdateRefused:
        versions.drop(version)
        raise
    versions.use(version, kind, busy)
