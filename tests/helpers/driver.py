"""A driver for tests: does one thing with Ray or a policy, and prints what it saw as a line of JSON.

Usage: `driver.py ray CONFIG KEEP [ACTOR [CPUS]]` or `driver.py policy CONFIG`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import ray

from cluster.config import RayConfig, VllmPolicy
from cluster.errors import ClusterError
from cluster.policy import open_policy, required_cpus
from cluster.ray_session.session import connect


@ray.remote(num_cpus=0.5, resources={"sandbox": 1})
class Resident:
    def imports(self) -> str:
        import workers.settings

        return str(Path(workers.settings.__file__).parent)


def use_ray(config: str, keep: str, actor: str = "", cpus: str = "2") -> dict[str, Any]:
    ray_config = RayConfig.model_validate_json(config)
    with connect(ray_config, keep=keep == "keep", extra_cpus=float(cpus)) as session:
        told: dict[str, Any] = {"address": session.address, "local": session.local, "kept": session.kept}
        names: Any = ray.util.list_named_actors()  # pyright: ignore
        told["found"] = list(names)
        lifetime = {"name": actor, "lifetime": "detached"} if actor else {}
        handle: Any = Resident.options(**lifetime).remote()  # pyright: ignore
        told["imports"] = ray.get(handle.imports.remote(), timeout=60)
        told["session"] = session.logs.parent.name
        told["nodes"] = [node["NodeManagerAddress"] for node in ray.nodes()]
        if actor:
            session.settle()
        return told


def use_policy(config: str) -> dict[str, Any]:
    policy = VllmPolicy.model_validate({"kind": "vllm", **json.loads(config)})
    stages: list[str] = []
    with connect(RayConfig(), keep=policy.keep_alive, extra_cpus=required_cpus(policy)) as session:
        began = time.monotonic()
        with open_policy(policy, session, stages.append) as handle:
            return {
                "endpoint": handle.endpoint().model_dump(mode="json"),
                "outcome": handle.outcome,
                "seconds": time.monotonic() - began,
                "stages": stages,
                "imported": sorted({"torch", "vllm"} & sys.modules.keys()),
            }


def main() -> None:
    what = {"ray": use_ray, "policy": use_policy}[sys.argv[1]]
    try:
        print(json.dumps(what(*sys.argv[2:])))
    except ClusterError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))


if __name__ == "__main__":
    main()
