"""The machines that a Ray cluster is on, by the addresses of its nodes."""

from typing import Any

import ray

_ray: Any = ray


def other_machines() -> list[str]:
    """Addresses of the live nodes that are not on this driver's machine."""
    own = _ray.get_runtime_context().get_node_id()
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in _ray.nodes() if node["Alive"]}
    return sorted(set(alive.values()) - {alive.get(own)})
