"""The vLLM policy: one Ray Serve LLM deployment, started for a run or kept between runs."""

import importlib.util
import time
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import Any

import ray

from cluster.config import VllmPolicy
from cluster.errors import PolicyInUse, PolicyUnavailable, UpdateRefused
from cluster.policy.api_requests import list_models
from cluster.policy.base import OnStage, PolicyClient
from cluster.policy.exact import check_renderer
from cluster.policy.models.description import parser_names
from cluster.policy.models.models import (
    Model,
    check_model,
    find_model_commit,
    find_model_folder,
    resolve_model,
)
from cluster.policy.vllm import application, serving
from cluster.policy.vllm.capacity import check_cpus, choose_accelerator
from cluster.policy.vllm.deployment import (
    check_same_versions,
    deployment_metrics,
    serve_named_adapter,
    update_deployment,
)
from cluster.policy.vllm.engine_arguments import describe_unknown
from cluster.policy.vllm.engine_metrics import EngineMetrics
from cluster.policy.vllm.kept_record import KeptPolicy, read_kept_policy, write_kept_policy
from cluster.policy.weights.probe import AdapterProbe
from cluster.policy.weights.versions import VersionFolder
from cluster.ray_session import engine_folders
from cluster.ray_session.machines import other_machines
from cluster.ray_session.session import RaySession
from workers.settings import PolicyEndpoint

_ray: Any = ray


class VllmPolicyClient(PolicyClient):
    """A deployment that is up. `open_vllm` makes one.

    Args:
        config: The policy.
        model: What it serves.
        base_url: Root of its API.
        versions: Its weights' versions.
        local: Whether it is on a cluster that Kumite started on this machine.
        ends: The application to end on closing; None if it is to stay.
    """

    def __init__(
        self,
        config: VllmPolicy,
        model: Model,
        base_url: str,
        versions: VersionFolder,
        local: bool,
        ends: str | None,
    ) -> None:
        self._config = config
        self._local = local
        self._model = model
        self._base_url = base_url
        self._versions = versions
        self._ends = ends
        self.outcome = ""

    def endpoint(self) -> PolicyEndpoint:
        return _make_endpoint(self._config, self._model, self._base_url, self.version)

    def metrics(self) -> EngineMetrics:
        return deployment_metrics(self._base_url)

    @property
    def version(self) -> int:
        return self._versions.version

    @property
    def next_version(self) -> int:
        return self._versions.next_version

    def update(self, path: Path | str, version: int) -> None:
        if not _is_folder_shared(self._config, self._local):
            raise self._versions.unshared()
        probe = None
        if self._config.adapters is not None:
            probe = AdapterProbe(self._base_url, self._model.name, self._config.adapters.probe)
        update_deployment(self._versions, self._base_url, str(path), version, probe)

    def serve_adapter(self, name: str, path: str) -> PolicyEndpoint:
        if self._config.adapters is None:
            raise UpdateRefused("policy.adapters is not set, so that the deployment takes no adapters")
        if not _is_folder_shared(self._config, self._local):
            raise self._versions.unshared()
        probe = AdapterProbe(self._base_url, self._model.name, self._config.adapters.probe)
        named = serve_named_adapter(self._versions, self._base_url, name, path, probe)
        self._versions.fixed_by = (
            f"policies.{name} is an adapter of the full weights that it would replace; give LoRA adapters"
        )
        model = f"{self._model.name}:{named}"
        return self.endpoint().model_copy(update={"model": model, "version": None, "max_version_lag": None})

    def close(self) -> None:
        if self._ends is not None:
            if _ray.is_initialized():
                serving.delete_application(self._ends)
            else:
                engine_folders.remove_folder(self._ends)
            self._versions.clear()
        self._ends = None


def open_vllm(config: VllmPolicy, session: RaySession, on_stage: OnStage) -> VllmPolicyClient:
    """Brings up a vLLM deployment, or finds the kept one that does as well.

    A kept deployment whose name says that it is interchangeable (`application_name`) is used as it is,
    whether or not this run would keep one. Else, a deployment to keep replaces the one that Kumite kept
    on this machine before; one that ends with its run comes up beside it.

    Args:
        config: The policy.
        session: The Ray cluster.
        on_stage: Told what is being waited for.

    Raises:
        PolicyUnavailable: It does not come up.
        PolicyInUse: It would have to replace a kept policy that another run uses.
    """
    accelerator = choose_accelerator(config, session.local)
    model = resolve_model(config.model, on_stage)
    if config.tokens == "exact":
        check_renderer(_make_endpoint(config, model, None, 0))
    args = application.serving_args(config, model, accelerator)
    name = application.application_name(config, model, args)
    if session.local and session.kept:
        _end_abandoned_deployments(name, session)
    if _has_new_commit(name, model):
        _end_deployment(name, session)
    if serving.is_running(name):
        base_url = f"{serving.start_serve(session)}/{name}/v1"
        if _is_answering(base_url, model):
            session.settle()
            versions = _open_version_folder(config, model, name)
            check_same_versions(versions, base_url)
            client = VllmPolicyClient(config, model, base_url, versions, session.local, ends=None)
            client.outcome = f"{model.name} on the {accelerator}, kept from an earlier run"
            return client
    if not config.keep_alive:
        name = f"{name}-{uuid.uuid4().hex[:6]}"
    elif session.local:
        _replace_kept_policy(name, session)
    return _start_deployment(config, session, model, args, name, on_stage)


def start_vllm(config: VllmPolicy, session: RaySession, on_stage: OnStage) -> VllmPolicyClient:
    """Brings up a vLLM deployment that no other run uses and that ends with this one.

    Args:
        config: The policy.
        session: The Ray cluster.
        on_stage: Told what is being waited for.

    Raises:
        PolicyUnavailable: It does not come up.
    """
    accelerator = choose_accelerator(config, session.local)
    model = resolve_model(config.model, on_stage)
    args = application.serving_args(config, model, accelerator)
    name = f"{application.application_name(config, model, args)}-{uuid.uuid4().hex[:6]}"
    return _start_deployment(config, session, model, args, name, on_stage)


def check_vllm(config: VllmPolicy) -> None:
    """Sees what can be seen to be wrong before anything is started.

    Raises:
        PolicyUnavailable: Something is.
    """
    if config.max_replicas is not None and config.max_replicas < config.replicas:
        raise PolicyUnavailable(
            f"policy.max_replicas is {config.max_replicas}, less than policy.replicas, {config.replicas}"
        )
    if config.adapters is not None and (targets := config.engine.get("lora_target_modules")):
        raise PolicyUnavailable(
            f"policy.engine.lora_target_modules is {targets!r}, by which vLLM leaves out an adapter's other "
            "modules without a word: leave it out, and say in the adapter which modules it has"
        )
    if config.chat_template is not None and not config.chat_template.is_file():
        raise PolicyUnavailable(
            f"policy.chat_template is {str(config.chat_template)!r}: there is no such file"
        )
    if importlib.util.find_spec("vllm") is None:
        raise PolicyUnavailable(
            "policy.kind is 'vllm', and vLLM is not installed: install the extra `cpu` or `gpu` of kumite"
        )
    if problem := describe_unknown(config.engine):
        raise PolicyUnavailable(problem)
    check_model(config.model)


def _start_deployment(
    config: VllmPolicy,
    session: RaySession,
    model: Model,
    args: dict[str, Any],
    name: str,
    on_stage: OnStage,
) -> VllmPolicyClient:
    began = time.monotonic()
    if session.local:
        check_cpus(config, args)
    deployment: Any = application.deploy_application
    versions = _open_version_folder(config, model, name)
    versions.clear()  # those of a deployment of this name that was there before
    application.add_version_folder(args, versions.path)
    if session.local:
        engine_folders.remove_stale_folders()
        application.add_temporary_folder(args, engine_folders.make_folder(name, session.owner))
    try:
        deploying = deployment.remote(name, args)
        base_url = f"{serving.start_serve(session)}/{name}/v1"
        serving.wait_for_application(name, deploying, session, config.start_timeout, on_stage)
        if not _is_answering(base_url, model):
            raise PolicyUnavailable(f"the vLLM policy is up, and yet {base_url} does not list {model.name!r}")
    except BaseException:
        serving.delete_application(name, wait=False)
        raise
    if config.keep_alive:
        session.settle()
        write_kept_policy(
            KeptPolicy(
                application=name,
                model=model.name,
                base_url=base_url,
                model_folder=find_model_folder(model),
                commit=find_model_commit(model),
                versions=versions.path,
                max_rank=versions.max_rank,
                kept_versions=versions.kept,
                probe=config.adapters.probe if config.adapters else "off",
                shared=_is_folder_shared(config, session.local),
                ray_address=session.address,
                local=session.local,
                started_at=time.time(),
            )
        )
    ends = None if config.keep_alive else name
    client = VllmPolicyClient(config, model, base_url, versions, session.local, ends)
    kind = args["llm_configs"][0]["accelerator_config"]["kind"]
    kept = ", to be kept" if config.keep_alive else ""
    client.outcome = f"{model.name} on the {kind}, started in {time.monotonic() - began:.0f} s{kept}"
    return client


def _make_endpoint(config: VllmPolicy, model: Model, base_url: str | None, version: int) -> PolicyEndpoint:
    tool_parser, reasoning_parser = parser_names(config)
    return PolicyEndpoint(
        kind="openai",
        model=model.name,
        base_url=base_url,
        version=version,
        moves=config.in_flight == "move",
        max_version_lag=config.max_version_lag,
        token_ids=True,
        tokens=config.tokens,
        tokenizer=str(config.engine.get("tokenizer") or model.source),
        chat_template=config.chat_template,
        renderer=config.renderer,
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        template_options=config.engine.get("default_chat_template_kwargs") or {},
        request_timeout=config.request_timeout,
        sampling=config.sampling,
    )


def _open_version_folder(config: VllmPolicy, model: Model, name: str) -> VersionFolder:
    root = application.versions_root(config)
    max_rank = None if config.adapters is None else config.adapters.max_rank
    return VersionFolder(root / name, find_model_folder(model), max_rank, config.kept_versions, [model.name])


def _is_folder_shared(config: VllmPolicy, local: bool) -> bool:
    """Whether all nodes see the folder of versions, as far as can be told from here."""
    return local or config.versions_folder is not None or not other_machines()


def _end_abandoned_deployments(name: str, session: RaySession) -> None:
    """Ends what a run that was killed left on the kept cluster, where all drivers are of this machine."""
    kept = read_kept_policy()
    wanted = {name, kept.application if kept else None}
    left = [other for other in serving.list_applications(application.PREFIX) if other not in wanted]
    if left and session.is_only_one():
        for other in left:
            serving.delete_application(other, wait=False)


def _replace_kept_policy(name: str, session: RaySession) -> None:
    others = [other for other in serving.list_applications(application.PREFIX) if other != name]
    for other in others:
        _end_deployment(other, session)


def _end_deployment(other: str, session: RaySession) -> None:
    if not session.is_only_one():
        raise PolicyInUse(
            f"policy.keep_alive is true, but another run is connected to the cluster where {other} is "
            "kept, which this one would replace: wait for its end, or set policy.keep_alive to false"
        )
    serving.delete_application(other)


def _has_new_commit(name: str, model: Model) -> bool:
    """Whether the hub's model is of another commit now than when the kept deployment was started with it."""
    kept, commit = read_kept_policy(), find_model_commit(model)
    if kept is None or kept.application != name or None in (kept.commit, commit):
        return False
    return kept.commit != commit and serving.is_running(name)


def _is_answering(base_url: str, model: Model) -> bool:
    try:
        return model.name in list_models(base_url)
    except (OSError, HTTPException, ValueError):
        return False
