"""A deployment's client on a Ray cluster that comes to span machines: `two_machines.py FOLDER`.

Prints, as JSON, what an update is told: on one machine, then with a node at another address, then by a client
whose config names a folder of versions.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from cluster.config import VllmPolicy
from cluster.errors import UpdateRefused
from cluster.policy.models.models import Model
from cluster.policy.vllm.client import VllmPolicyClient
from cluster.policy.weights.versions import VersionFolder

OTHER = "127.0.0.2"


def told(folder: Path, local: bool = False, **settings: Any) -> str:
    config = VllmPolicy(kind="vllm", **settings)
    versions = VersionFolder(folder / "versions")
    model = Model("m", "org/m", local=False)
    client = VllmPolicyClient(config, model, "http://127.0.0.1:9/v1", versions, local, None)
    try:
        client.update(folder / "weights", 1)
    except UpdateRefused as refusal:
        return str(refusal)
    return "taken"


def main() -> None:
    folder = Path(sys.argv[1])
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "dashboard_agent_listen_port": 0}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**node, "node_ip_address": "127.0.0.1"})
    try:
        ray.init(cluster.address, log_to_driver=False)
        said = [told(folder)]
        cluster.add_node(**node, node_ip_address=OTHER)
        said += [told(folder), told(folder, local=True), told(folder, versions_folder=folder)]
        print(json.dumps(said), flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
