"""A deployment asked by HTTP for what only ours can do: to say how busy it is, and to take new weights."""

import logging
import urllib.error
from http.client import HTTPException
from typing import Any, Literal

from pydantic import BaseModel

from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.api_requests import request_json
from cluster.policy.vllm.engine_metrics import EngineMetrics, total_metrics
from cluster.policy.weights.fetched import fetch_weights
from cluster.policy.weights.named import NamedAdapters
from cluster.policy.weights.probe import AdapterProbe
from cluster.policy.weights.served_model import ServedModel
from cluster.policy.weights.versions import CurrentVersion, VersionFolder
from workers.policy.versions import version_name

_log = logging.getLogger(__name__)

_METRICS_TIMEOUT = 5.0
"""Seconds in which replicas must say how busy they are."""
_STATE_TIMEOUT = 30.0
"""Seconds in which replicas must say which weights they have, or describe their model."""
_TIMEOUT = {"adapter": 120.0, "kept": 120.0, "checkpoint": 3600.0}
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
        told = request_json(base_url.removesuffix("/v1"), "kumite/engine", None, _METRICS_TIMEOUT)
        return total_metrics(EngineMetrics(**replica) for replica in told)
    except (OSError, HTTPException, ValueError, TypeError) as error:
        raise PolicyUnavailable(f"the policy at {base_url} does not say how busy it is: {error}") from error


class DeploymentVersions(BaseModel):
    """What a deployment says of its versions."""

    folder: str
    """Where it reads them."""
    current: CurrentVersion
    """What is in use, as that folder says."""
    bases: list[int]
    """Of each replica, the version of its full weights."""


def deployment_versions(base_url: str) -> DeploymentVersions:
    """Which weights a deployment has.

    Args:
        base_url: Root of its API.

    Raises:
        PolicyUnavailable: It does not say.
    """
    try:
        told = request_json(base_url.removesuffix("/v1"), "kumite/versions", None, _STATE_TIMEOUT)
        return DeploymentVersions.model_validate(told)
    except (OSError, HTTPException, ValueError) as error:
        raise PolicyUnavailable(f"the policy at {base_url} does not say its version: {error}") from error


def check_same_versions(versions: VersionFolder, base_url: str) -> None:
    """Sees that a deployment has the weights that this process takes it to have.

    Replicas that have others, since a change of weights was broken off, are brought back.

    Args:
        versions: Its versions, as they are read here.
        base_url: Root of its API.

    Raises:
        PolicyUnavailable: It is at another version, or does not answer.
    """
    there, here = deployment_versions(base_url), versions.current
    if (there.current.version, there.current.base) != (here.version, here.base):
        raise PolicyUnavailable(
            f"the policy at {base_url} is at version {there.current.version}, in {there.folder}, and this "
            f"run would take it to be at version {here.version}, in {versions.path}: set "
            "policy.versions_folder to a folder that both see, or end it with `kumite policy down`"
        )
    _restart_replicas(versions, base_url, there)


def update_deployment(
    versions: VersionFolder, base_url: str, place: str, version: int, probe: AdapterProbe | None = None
) -> None:
    """Gives a deployment new weights: put beside the others, loaded by every replica, and only then in use.

    Args:
        versions: Its versions.
        base_url: Root of its API.
        place: Folder of a LoRA adapter, or of a full checkpoint, or its URI.
        version: Its version.
        probe: Scores some tokens by an adapter that is loaded, before it is in use. None: nothing does.

    Raises:
        UpdateRefused: They are not taken; the version before keeps serving.
        PolicyUnavailable: The deployment does not answer.
    """
    with versions.being_updated():
        _update_alone(versions, base_url, place, version, probe)


def _update_alone(
    versions: VersionFolder, base_url: str, place: str, version: int, probe: AdapterProbe | None
) -> None:
    served = _describe_served_model(versions, base_url)
    with fetch_weights(place) as folder:
        kind = versions.add_version(folder, version, place, served)
    busy: list[int] = []
    try:
        if kind == "adapter":
            _restart_stray_replicas(versions, base_url)
        probed = probe if kind == "adapter" else None
        # Old adapters go only once it is certain that the new one comes.
        busy = _load_on_replicas(base_url, place, kind, version, 0 if probed else versions.oldest())
        if probed is not None:
            adapter = versions.adapter(version)
            assert adapter is not None, f"version {version} was put there as an adapter"
            probed.check(versions, adapter, version_name(version), f"the {kind} {place}")
            busy = _load_on_replicas(base_url, place, "kept", version, versions.oldest())
    except (OSError, HTTPException, ValueError, KeyError) as error:
        said = (
            error.read(2000).decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else error
        )
        versions.drop(version)
        raise PolicyUnavailable(f"the policy at {base_url} did not load version {version}: {said}") from error
    except (UpdateRefused, PolicyUnavailable):
        if kind == "adapter" and probe is not None:
            _forget_on_replicas(base_url, version)
        versions.drop(version)
        raise
    versions.use_version(version, kind, busy)


def serve_named_adapter(
    versions: VersionFolder, base_url: str, name: str, place: str, probe: AdapterProbe
) -> str:
    """Has a deployment serve an adapter under a name of its own, beside the versions of its policy.

    Args:
        versions: Its versions.
        base_url: Root of its API.
        name: What the adapter is to be called.
        place: The adapter's folder, or its URI.
        probe: Scores some tokens by the adapter.

    Returns:
        What requests call it, after the colon of the model's name.

    Raises:
        UpdateRefused: It does not fit, or vLLM does not load it.
        PolicyUnavailable: The deployment does not answer.
    """
    adapters, called = NamedAdapters(versions), f"the adapter {place}"
    with fetch_weights(place) as folder:
        named = adapters.add(name, folder, place, _describe_served_model(versions, base_url))
    copied = adapters.find(named)
    assert copied is not None, f"{named} was put there"
    asked = {"kind": "named", "name": named}
    try:
        told = request_json(base_url.removesuffix("/v1"), "kumite/versions", None, _TIMEOUT["adapter"], asked)
        refusals = list(told["refusals"])
        if refusals:
            raise UpdateRefused(f"{called}: vLLM does not load it: {refusals[0]}")
        probe.check(versions, copied, named, called)
    except (OSError, HTTPException, ValueError, KeyError) as error:
        raise PolicyUnavailable(f"the policy at {base_url} did not load {called}: {error}") from error
    except UpdateRefused:
        adapters.drop(named)
        raise
    return named


def _load_on_replicas(
    base_url: str, place: str, kind: Literal["adapter", "checkpoint", "kept"], version: int, oldest: int
) -> list[int]:
    """Has all replicas load weights; gives the adapters older than `oldest` that are still busy.

    Of the kind `kept`, an adapter that they have loaded, it only does the latter.
    """
    asked = {"version": version, "kind": kind, "oldest": oldest}
    told = request_json(base_url.removesuffix("/v1"), "kumite/versions", None, _TIMEOUT[kind], asked)
    if told["refusals"]:
        raise UpdateRefused(f"the {kind} {place}: vLLM does not load it: {told['refusals'][0]}")
    return list(told["busy"])


def _forget_on_replicas(base_url: str, version: int) -> None:
    asked = {"version": version, "kind": "refused", "oldest": 0}
    try:
        request_json(base_url.removesuffix("/v1"), "kumite/versions", None, _TIMEOUT["adapter"], asked)
    except (OSError, HTTPException, ValueError) as error:
        _log.warning("version %d, which is refused, may still be loaded by a replica: %s", version, error)


def _describe_served_model(versions: VersionFolder, base_url: str) -> ServedModel:
    """What new weights are compared with: the model's files here, or as the replicas describe theirs."""
    served = ServedModel.of_folder(versions.model)
    if served.is_whole:
        return served
    try:
        told: Any = request_json(base_url.removesuffix("/v1"), "kumite/model", None, _STATE_TIMEOUT)
        served = ServedModel.model_validate(told).filled_from(served)
    except (OSError, HTTPException, ValueError) as error:
        _log.debug("the policy at %s does not describe its model: %s", base_url, error)
    if lacks := served.what_lacks():
        _log.warning(
            "new weights are not compared with %s of the served model: these are neither on this machine nor "
            "with the replicas; what vLLM refuses is refused",
            " and ".join(lacks),
        )
    return served


def _restart_stray_replicas(versions: VersionFolder, base_url: str) -> None:
    try:
        there = deployment_versions(base_url)
    except PolicyUnavailable as error:
        _log.debug("%s", error)
        return
    _restart_replicas(versions, base_url, there)


def _restart_replicas(versions: VersionFolder, base_url: str, there: DeploymentVersions) -> None:
    """Has replicas that were left with full weights that did not come into use take those in use."""
    base = versions.current.base
    if all(had == base for had in there.bases):
        return
    _log.warning("replicas have the full weights of %s, and %d are in use: they take them", there.bases, base)
    _load_on_replicas(base_url, str(versions.base_folder), "checkpoint", base, 0)
