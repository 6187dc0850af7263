"""A node that joins a test's Ray head, as a process of its own: `ray_node.py GCS CPUS RESOURCES`.

`ray start --address` would have it listen on every interface of the machine.
"""

import json
import sys
import threading
from types import SimpleNamespace
from typing import Any

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    gcs, cpus, resources = sys.argv[1:]
    cluster: Any = Cluster()
    # The head runs already, in another process: this is all that adding a node asks of it.
    cluster.head_node, cluster.redis_address = SimpleNamespace(gcs_address=gcs), gcs
    cluster.add_node(
        wait=False,
        node_ip_address="127.0.0.1",
        num_cpus=int(cpus),
        resources=json.loads(resources),
        object_store_memory=100 * 2**20,
        dashboard_agent_listen_port=0,
    )
    print("up", flush=True)
    threading.Event().wait()
