"""What Ray's own autoscaler makes of a cluster's description, with no cloud behind it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

WORKER = {"CPU": 0.5, "sandbox": 1.0}
"""What `WorkerPool` asks for, for a worker whose environment has tools in a sandbox."""
REPLICA = {"CPU": 1.0, "GPU": 1.0}
"""What Ray Serve LLM asks for, for one replica on one GPU."""
INGRESS = {"CPU": 1.0}
"""What it asks for, for one replica of its ingress, which imports vLLM too."""


def nodes_for(config: AutoscalingConfig, demands: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Node types and how many of each the autoscaler would add to an empty cluster.

    Raises:
        ValueError: A demand fits no node type.
    """
    requests = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(dict(each)) for each in demands])
    event_logger: Any = None
    reply = ResourceDemandScheduler(event_logger).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=requests,
        )
    )
    if reply.infeasible_resource_requests:
        raise ValueError(
            f"no node for {ResourceRequestUtil.to_resource_maps(reply.infeasible_resource_requests)}"
        )
    added: Counter[str] = Counter()
    for launch in reply.to_launch:
        added[launch.instance_type] += launch.count
    return dict(added)
