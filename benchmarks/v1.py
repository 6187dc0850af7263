"""Tasksets of verifiers' v1 API: many single-turn episodes at once, and how fast their worker starts.

`python -m benchmarks.v1 [--sizes 32,256,512]`. The peer is verifiers 0.4.0's own `eval` in the same packages.
`--peer-sizes` says at which sizes it plays with its subprocess runtime, which starts a program each, and
`--docker-sizes` at which it plays with its Docker runtime, which starts a program each in its own container.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import verifiers_runtimes, verifiers_v1_eval, word_problems
from benchmarks.figures import compare_rates
from benchmarks.scaling.saturation import start_policy_server
from cluster.plan.apart import EnvironmentApart
from cluster.pool.packages import lock_packages
from cluster.pool.pythons import ensure_python
from workers.lanes.interpreter import OwnPython
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

LATENCY, START_TIMES, STARTS = 0.2, 1.3, 3
"""Seconds that the policy takes; the goal for a worker's start; starts of each kind."""
TIMES = {"subprocess": 5.0, "Docker": 10.0}
"""Goals for the peer's time as a multiple of Kumite's, by the peer's runtime."""
CLASSIC = Path(__file__).parents[1] / "examples" / "short_answers.py"
TASKSET = Path(word_problems.__file__)
_TIMEOUT = 1800


def main() -> None:
    """Measures one after the other, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="32,256,512", help="episodes at once, with commas")
    parser.add_argument(
        "--peer-sizes", default=None, help="those of them that the peer plays; all if left out"
    )
    parser.add_argument(
        "--docker-sizes", default="32", help="those of them that the peer plays in containers, too"
    )
    parser.add_argument("--only", choices=["episodes", "start"], help="one part of it")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    given: str = arguments.peer_sizes if arguments.peer_sizes is not None else arguments.sizes
    peer_sizes = [int(size) for size in given.split(",") if size]
    docker_sizes = [int(size) for size in arguments.docker_sizes.split(",") if size]
    console = Console(width=150)
    machine.print_header(console, "Tasksets of verifiers' v1 API: single turns at once, and a worker's start")
    lock = lock_packages(EnvironmentSettings(id="benchmark", requirements=["verifiers==0.4.0"]))
    assert lock is not None
    python = ensure_python(lock)
    table = Table(show_lines=True)
    for column in ("measure", "Kumite", "beside", "target"):
        table.add_column(column)
    if arguments.only in (None, "episodes"):
        runtimes: dict[str, tuple[dict[str, Any], list[int]]] = {
            "subprocess": (verifiers_runtimes.SUBPROCESS, peer_sizes)
        }
        if docker_sizes and verifiers_runtimes.has_bridge():
            runtimes["Docker"] = verifiers_runtimes.docker_runtime(), docker_sizes
        elif docker_sizes:
            console.print("verifiers' Docker runtime is not measured: the engine has no network `bridge`")
        for size in sizes:
            chosen = {name: runtime for name, (runtime, its_sizes) in runtimes.items() if size in its_sizes}
            _add_episodes(table, python, size, chosen)
    if arguments.only in (None, "start"):
        _add_start(table, python)
    console.print(table)
    console.print(f"Load average after the run {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


def _add_episodes(table: Table, python: OwnPython, size: int, runtimes: dict[str, dict[str, Any]]) -> None:
    """So many episodes at once, the policy answering in 0.2 s, beside the peer's runtimes."""
    with start_policy_server(LATENCY, "") as url:
        ours = _play(python, url, size)
        peers = {name: _play_by_peer(python, url, size, runtime) for name, runtime in runtimes.items()}
    said = (f"verifiers 0.4.0, {name} runtime: {seconds:.2f} s" for name, seconds in peers.items())
    met = (compare_rates(1 / ours, 1 / seconds, TIMES[name]) for name, seconds in peers.items())
    table.add_row(
        f"{size} single-turn episodes at once, policy answering in {LATENCY:g} s",
        f"{ours:.2f} s",
        "\n".join(said) or "not measured",
        "\n".join(met),
    )


def _play(python: OwnPython, url: str, size: int) -> float:
    """Seconds from the first episode's dispatch to the last one's record, by a worker that is up."""
    environment = EnvironmentSettings(id=str(TASKSET), args={"taskset": {"problems": size}})
    rows = EnvironmentApart(environment, python).rows()
    worker = _start_worker(environment, url, size, python)
    specs = [
        EpisodeSpec(
            episode_id=uuid.uuid4().hex[:16],
            task_id=str(number),
            group_id="benchmark",
            sample_index=0,
            row=rows[number],
        )
        for number in range(size)
    ]
    try:
        with ThreadPoolExecutor(size) as threads:
            list(threads.map(worker.play, [[spec] for spec in specs[:1]]))  # what is done once in a process
            began = time.perf_counter()
            results = [result for made in threads.map(worker.play, [[s] for s in specs]) for result in made]
            seconds = time.perf_counter() - began
    finally:
        worker.stop()
    failed = [result.error_message for result in results if result.status != "finished"]
    if failed:
        raise RuntimeError(f"{len(failed)} episodes failed, the first with: {failed[0]}")
    return seconds


def _start_worker(
    environment: EnvironmentSettings, url: str, episodes: int, python: OwnPython | None
) -> LanedWorker:
    settings = WorkerSettings(
        run_id=f"benchmark-{uuid.uuid4().hex[:8]}",
        environment=environment,
        sandbox=SandboxSettings(),
        policy=PolicyEndpoint(kind="openai", model="mock", base_url=url),
        episodes=episodes,
    )
    worker = LanedWorker(settings, "benchmark", python)
    worker.ready()
    return worker


def _play_by_peer(python: OwnPython, url: str, size: int, runtime: dict[str, Any]) -> float:
    """The peer's seconds, from its first episode to its last."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python.executable, verifiers_v1_eval.__file__, url, str(size), folder, json.dumps(runtime)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    played = json.loads(done.stdout)
    if played["done"] != size:
        raise RuntimeError(f"of the peer's {size} episodes, {played['done']} ended well")
    return float(played["seconds"])


def _add_start(table: Table, python: OwnPython) -> None:
    """A worker's start until it can play, its packages installed: of a v1 taskset, beside a classic one."""
    v1, classic = EnvironmentSettings(id=str(TASKSET)), EnvironmentSettings(id=str(CLASSIC))
    seconds: dict[str, list[float]] = {"v1": [], "classic": []}
    for _ in range(STARTS):
        for name, environment, own in (("v1", v1, python), ("classic", classic, None)):
            began = time.perf_counter()
            worker = _start_worker(environment, "http://127.0.0.1:9/v1", 1, own)
            seconds[name].append(time.perf_counter() - began)
            worker.stop()
    ours, beside = median(seconds["v1"]), median(seconds["classic"])
    is_met = ours <= START_TIMES * beside
    table.add_row(
        f"start of a worker with verifiers 0.4.0 (median of {STARTS})",
        f"{ours:.2f} s",
        f"of a classic one: {beside:.2f} s",
        f"{ours / beside:.2f} times, ≤ {START_TIMES} {'✓' if is_met else '✗'}",
    )


if __name__ == "__main__":
    main()
