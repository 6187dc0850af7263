"""A Ray node as a process, as `ray.cluster_utils.Cluster` adds one: `ray_node.py GCS CPUS RESOURCES`.

`ray start --address` would have it listen on every interface of the machine.
"""

import json
import sys
import threading

from ray._private.node import Node
from ray._private.parameter import RayParams

if __name__ == "__main__":
    gcs, cpus, resources = sys.argv[1:]
    parameters = RayParams(
        gcs_address=gcs,
        redis_address=gcs,
        node_ip_address="127.0.0.1",
        num_cpus=int(cpus),
        num_gpus=0,
        resources=json.loads(resources),
        object_store_memory=100 * 2**20,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=0,
        include_log_monitor=False,
    )
    Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=False)
    print("up", flush=True)
    threading.Event().wait()
