"""What vLLM tells of its work, added up over the deployment's replicas."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class EngineMetrics:
    """Counts of one replica, or of all. Those of tokens count since the replica's start."""

    replicas: int = 1
    """Replicas that are up."""
    running: int = 0
    """Requests in the batch at the last step."""
    waiting: int = 0
    """Requests that wait for a place in it."""
    max_requests: int = 0
    """Requests that a batch can hold (vLLM's `max_num_seqs`)."""
    kv_cache_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1; of several replicas, the mean."""
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache."""
    prefix_hits: int = 0
    """Those of them that were there."""
    prompt_tokens: int = 0
    """Prompt tokens processed."""
    generated_tokens: int = 0
    """Tokens sampled."""
    name: str = ""
    """Of one replica: tells its process from the one that takes its place. Empty where it is not known."""
    each: "tuple[EngineMetrics, ...]" = ()
    """Of several replicas: the counts of each."""


def total_metrics(replicas: Iterable[EngineMetrics]) -> EngineMetrics:
    """Adds up the counts of several replicas as those of one."""
    each = list(replicas)
    sums: dict[str, Any] = {
        field.name: sum(getattr(metrics, field.name) for metrics in each)
        for field in dataclasses.fields(EngineMetrics)
        if field.name not in ("name", "each")
    }
    sums["kv_cache_usage"] /= max(1, len(each))
    return EngineMetrics(**sums, each=tuple(each))
