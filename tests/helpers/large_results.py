"""A driver whose worker's results are too large to travel with the answer: `large_results.py GCS`.

Prints `played` when they lie in the store of the worker's node, waits for a line, and then asks for them;
prints what came of that.
"""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import ray

from cluster.pool.ray_worker import RayWorker, WorkerDied


class Player:
    def play(self, specs: list[Any]) -> list[bytes]:
        return [bytes(2**20)]


if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False)
    player: Any = ray.remote(Player).options(num_cpus=1).remote()
    results = player.play.remote([])
    ray.wait([results], fetch_local=False)
    print("played", flush=True)
    sys.stdin.readline()
    worker = RayWorker("worker-0001", SimpleNamespace(play=SimpleNamespace(remote=lambda specs: results)))
    try:
        print(len(asyncio.run(worker.play([]))), "results", flush=True)
    except WorkerDied as error:
        print(f"{type(error).__name__}: {error}", flush=True)
