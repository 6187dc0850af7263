"""What deployments take of a cluster, and whether it is there."""

from collections.abc import Mapping
from typing import Any

import ray

from cluster.config import VllmPolicy
from cluster.errors import ConfigError, PolicyUnavailable
from cluster.policy.models.models import find_model_folder, resolve_model
from cluster.policy.vllm import application
from cluster.policy.weights.probe import read_free_memory

_ray: Any = ray
_ENGINE_MEMORY = 3 << 29
"""Bytes that a replica on the CPU takes beside its model and its KV cache: vLLM's processes."""


def choose_accelerator(config: VllmPolicy, local: bool) -> application.Accelerator:
    """Where vLLM runs.

    Args:
        config: The policy.
        local: Whether the cluster is one that Kumite started on this machine.

    Raises:
        PolicyUnavailable: What the config asks for is not there.
    """
    gpus: float = _ray.cluster_resources().get("GPU", 0.0)
    if config.accelerator == "gpu" and not local:
        return "gpu"  # nodes that have them may come up only when they are asked for
    if config.accelerator == "gpu" and not gpus:
        raise PolicyUnavailable("policy.accelerator is 'gpu', and Ray sees no GPU in this cluster")
    accelerator = "cpu" if config.accelerator == "cpu" or not gpus else "gpu"
    if accelerator == "cpu" and config.tensor_parallel > 1:
        raise PolicyUnavailable(
            f"policy.tensor_parallel is {config.tensor_parallel}, and vLLM runs on the CPU here: it must be 1"
        )
    return accelerator


def check_cpus(config: VllmPolicy, args: dict[str, Any]) -> None:
    """Ray would wait for ever for logical CPUs that a cluster which cannot grow does not have."""
    if args["llm_configs"][0]["accelerator_config"]["kind"] != "cpu":
        return
    has: float = _ray.cluster_resources().get("CPU", 0.0)
    wants = required_cpus(config)
    if has < wants:
        raise PolicyUnavailable(
            f"policy.replicas is {config.replicas}, which takes {wants:g} logical CPUs, and Ray has {has:g}: "
            "raise ray.num_cpus (they are not cores), or lower policy.replicas"
        )


def required_cpus(config: VllmPolicy) -> float:
    """Logical CPUs that Ray must have for the deployment, at its largest."""
    replicas = config.max_replicas or config.replicas
    return replicas * application.REPLICA_CPUS + config.replicas * application.INGRESS_CPUS


def check_together(policies: Mapping[str, VllmPolicy]) -> None:
    """Sees that several deployments fit the local cluster together, which cannot grow.

    Args:
        policies: Each deployment's config, by its key in the run's.

    Raises:
        ConfigError: They do not.
        PolicyUnavailable: An accelerator is asked for that is not there.
    """
    if len(policies) < 2:
        return
    on = {key: choose_accelerator(config, local=True) for key, config in policies.items()}
    cpus = {key: required_cpus(config) for key, config in policies.items() if on[key] == "cpu"}
    gpus = {
        key: float(config.replicas * config.tensor_parallel)
        for key, config in policies.items()
        if on[key] == "gpu"
    }
    for what, wanted in (("GPU", gpus), ("CPU", cpus)):
        has: float = _ray.cluster_resources().get(what, 0.0)
        if sum(wanted.values()) > has:
            each = ", ".join(f"{key} {count:g}" for key, count in wanted.items())
            kind = "GPUs" if what == "GPU" else "logical CPUs"
            mend = "" if what == "GPU" else "raise ray.num_cpus (they are not cores), or "
            raise ConfigError(
                f"{list(wanted)[-1]}: the deployments take {sum(wanted.values()):g} {kind} together "
                f"({each}), and Ray has {has:g}: {mend}have it be of kind `adapter`, on the deployment of "
                "`policy`, or `endpoint`"
            )


def check_memory(key: str, config: VllmPolicy) -> None:
    """Sees that one more deployment fits the memory of this machine, where it is to run on its CPUs.

    Args:
        key: The deployment's key in the run's config.
        config: It.

    Raises:
        ConfigError: It does not.
    """
    if choose_accelerator(config, local=True) != "cpu":
        return
    folder = find_model_folder(resolve_model(config.model, lambda _: None))
    files = list(folder.glob("*.safetensors")) if folder is not None else []
    weights = sum(file.stat().st_size for file in files)
    wanted = config.replicas * ((config.cpu_kv_cache_gb << 30) + weights + _ENGINE_MEMORY)
    free = read_free_memory()
    if free < wanted:
        raise ConfigError(
            f"{key}: one more deployment takes about {wanted / 2**30:.1f} GiB of memory here, and "
            f"{free / 2**30:.1f} GiB are free: lower {key}.cpu_kv_cache_gb ({config.cpu_kv_cache_gb}), or "
            "have it be of kind `adapter`, on the deployment of `policy`, or `endpoint`"
        )
