"""What Ray Serve is told of a vLLM policy: which classes its replicas run, and with which options.

Ray Serve LLM has functions for that, which import vLLM: 9 s before the first replica can start. The classes
are therefore named, not imported, and the options put together here; a test holds them to Ray's own.
"""

from typing import Any, cast

_INGRESS = "cluster.policy.vllm.ingress.RoutedIngress"
_SETUP_HOOK = "ray.llm._internal.serve._worker_process_setup_hook"


def describe_application(args: dict[str, Any], runtime_env: dict[str, Any]) -> Any:
    """The Ray Serve application, as `ray.serve.llm.build_openai_app` would build it with our ingress.

    Args:
        args: As `build_openai_app` takes them; one LLM config.
        runtime_env: The runtime environment of whoever deploys it.
    """
    from ray import serve

    deployment = cast(Any, serve).deployment
    llm = args["llm_configs"][0]
    model = llm["model_loading_config"]["model_id"]
    replica_class = llm["server_cls"].replace(":", ".")
    replica = deployment(**_replica_options(llm, runtime_env))(replica_class).bind(llm_config=llm)
    ingress = deployment(**_ingress_options(args["ingress_deployment_config"]))(_INGRESS)
    return ingress.bind(llm_deployments={model: replica}, llm_config=llm)


def _replica_options(llm: dict[str, Any], runtime_env: dict[str, Any]) -> dict[str, Any]:
    """Options of the replicas' deployment.

    Args:
        llm: An LLM config of Ray Serve LLM.
        runtime_env: The runtime environment of whoever deploys it.
    """
    from ray.llm._internal.serve import constants

    options = {
        "max_ongoing_requests": constants.DEFAULT_MAX_ONGOING_REQUESTS,
        "health_check_period_s": constants.DEFAULT_HEALTH_CHECK_PERIOD_S,
        **llm["deployment_config"],
    }
    model = llm["model_loading_config"]["model_id"].replace("/", "--").replace(".", "_")
    hook = {"worker_process_setup_hook": _SETUP_HOOK} if constants.ENABLE_WORKER_PROCESS_SETUP_HOOK else {}
    environment = {**runtime_env, **hook, **llm["runtime_env"]}
    return {
        **options,
        "name": f"{llm['server_cls'].rpartition(':')[2]}:{model}",
        "placement_group_bundles": _make_bundles(llm),
        "placement_group_strategy": "PACK",
        "ray_actor_options": {"runtime_env": environment},
    }


def _ingress_options(config: dict[str, Any]) -> dict[str, Any]:
    """Options of the ingress's deployment, of those that the application's arguments have of it."""
    from ray.llm._internal.serve import constants

    return {
        "name": "PolicyIngress",
        "max_ongoing_requests": constants.DEFAULT_MAX_ONGOING_REQUESTS,
        **config,
    }


def _make_bundles(llm: dict[str, Any]) -> list[dict[str, int]]:
    """Resources of each worker of an engine; the first has the replica's own, too."""
    engine = llm["engine_kwargs"]
    devices = engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1)
    given: dict[str, list[dict[str, int]]] | None = llm.get("placement_group_config")
    first, *others = given["bundles"] if given else [{"GPU": 1} for _ in range(devices)]
    return [{"CPU": first.get("CPU", 0) + 1, "GPU": first.get("GPU", 0)}, *others]
