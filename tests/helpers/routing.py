"""Episodes played against two replicas behind the policy's router, on a Ray cluster of its own.

Prints, as JSON: of each group, of each sample, the replica of each turn.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve

from cluster.policy.vllm.application import make_router_config

GROUPS, SAMPLES, TURNS, AT_ONCE = 24, 4, 4, 6
SYSTEM = "You are an assistant with tools for a bank account, and here is how you use them. " * 20


@dataclass
class Request:
    """As the router sees one."""

    messages: list[dict[str, str]]


class Replica:
    """Answers after a while, with its name."""

    async def chat(self, request: Request) -> str:
        await asyncio.sleep(0.5)
        return str(serve.get_replica_context().replica_id.unique_id)


async def play(handle: Any) -> list[list[list[str]]]:
    """Of each group, of each sample, the replica of each turn."""

    async def episode(group: int, sample: int) -> list[str]:
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"Task {group}: " + f"pay bill {group} of many. " * 10},
        ]
        replicas: list[str] = []
        for turn in range(TURNS):
            replicas.append(await handle.chat.remote(Request(messages)))
            said = f"Sample {sample} of task {group} says, in turn {turn}, what it does. "
            messages = [
                *messages,
                {"role": "assistant", "content": said * 3},
                {"role": "tool", "content": "done. "},
            ]
        return replicas

    async def group(number: int) -> list[list[str]]:
        async with places:
            return await asyncio.gather(*(episode(number, sample) for sample in range(SAMPLES)))

    places = asyncio.Semaphore(AT_ONCE)

    return await asyncio.gather(*(group(number) for number in range(GROUPS)))


def main() -> None:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(proxy_location="Disabled")
    options: dict[str, Any] = {
        "num_replicas": 2,
        "max_ongoing_requests": 64,
        "ray_actor_options": {"num_cpus": 0},
    }
    deployed = serve.deployment(Replica, **options, request_router_config=make_router_config("cpu"))
    handle = serve.run(deployed.bind(), name="policy", route_prefix=None)
    print(json.dumps(asyncio.run(play(handle))), flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
