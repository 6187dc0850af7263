"""Episodes of verifiers' harness `bash` with two tool calls, each in a container of its own.

`python -m benchmarks.v1_containers`; with `--quick`, fewer episodes. The peer is verifiers' own `eval` of the
same release, on its Docker runtime and on its subprocess runtime, which isolates nothing: same taskset, same
harness, same policy, which answers at once from this process.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import verifiers_runtimes
from benchmarks.figures import compare_rates
from cluster.plan.apart import EnvironmentApart
from cluster.pool.images import ensure_image, with_image
from cluster.pool.packages import lock_packages
from cluster.pool.pythons import ensure_python
from tests.helpers import verifiers_runner
from tests.helpers.conversation_policy import ConversationPolicy
from tests.helpers.mock_policy import Reply
from workers.lanes.interpreter import OwnPython
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeRecord, EpisodeSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

RELEASE, TIMES = "0.4.0", 2.0
"""verifiers' release, and the goal for Kumite's rate as a multiple of its Docker runtime's."""
TASKSET = Path(__file__).parents[1] / "examples" / "word_hunt.py"
_AT_ONCE = 4
_COMMANDS = ("cat notes/*", "echo lantern > answer.txt")
_TIMEOUT = 900
_DOCKER = "Docker runtime, a container each"


def main() -> None:
    """Measures one after the other, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the episodes")
    episodes = 8 if parser.parse_args().quick else 32
    console = Console(width=120)
    machine.print_header(console, f"The harness `bash` of verifiers {RELEASE}, two tool calls an episode")
    lock = lock_packages(EnvironmentSettings(id="v1", requirements=[f"verifiers=={RELEASE}"]))
    assert lock is not None
    python = ensure_python(lock)
    peers: dict[str, dict[str, Any]] = {
        "subprocess runtime, without isolation": verifiers_runtimes.SUBPROCESS
    }
    if verifiers_runtimes.has_bridge():
        peers[_DOCKER] = verifiers_runtimes.docker_runtime()
    else:
        console.print("verifiers' Docker runtime is not measured: the engine has no network `bridge`")
    seconds: dict[str, float] = {}
    with ConversationPolicy(_choose) as policy:
        for name, runtime in peers.items():
            _play_by_verifiers(
                python, policy.base_url, 1, runtime
            )  # what is done once, in a cache or the engine
            seconds[name] = _play_by_verifiers(python, policy.base_url, episodes, runtime)
        ours = _play_by_kumite(python, policy.base_url, episodes)
    table = Table()
    for column in (
        f"{episodes} episodes, {_AT_ONCE} at once",
        "seconds",
        "episodes/s",
        "Kumite's rate beside it",
    ):
        table.add_column(column)
    table.add_row("Kumite: a container each, without a network", f"{ours:.1f}", f"{episodes / ours:.2f}", "")
    for name, theirs in seconds.items():
        beside = compare_rates(1 / ours, 1 / theirs, TIMES) if name == _DOCKER else f"{theirs / ours:.1f}×"
        table.add_row(f"verifiers: its {name}", f"{theirs:.1f}", f"{episodes / theirs:.2f}", beside)
    console.print(table)
    console.print(
        "Packages of the harness's program: in Kumite's image installed, in the Docker runtime's as wheels"
    )
    console.print(f"Load average after the run {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


def _choose(body: dict[str, Any]) -> Reply:
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    if turn < len(_COMMANDS):
        return Reply(content=None, tool_calls=[("bash", {"command": _COMMANDS[turn]})])
    return Reply(content="Done.")


def _agent() -> dict[str, Any]:
    return {"harness": {"id": "bash"}, "max_turns": 4}


def _play_by_verifiers(python: OwnPython, base_url: str, episodes: int, runtime: dict[str, Any]) -> float:
    """Seconds of an `eval` on a runtime."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "env": {
                "taskset": {"id": TASKSET.stem, "tasks": episodes},
                "agent": {**_agent(), "runtime": runtime},
            },
            "model": "mock",
            "max_concurrent": _AT_ONCE,
            "client": {"base_url": base_url, "api_key_var": "NO_SUCH_KEY"},
            "output_dir": folder,
        }
        ran = subprocess.run(
            [python.executable, verifiers_runner.__file__],
            input=json.dumps(config),
            env={**os.environ, "PYTHONPATH": str(TASKSET.parent)},
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        )
    told = json.loads(ran.stdout)
    turns = [trace["turns"] for episode in told["episodes"] for trace in episode["traces"]]
    assert turns == [3] * episodes, told
    return float(told["seconds"])


def _play_by_kumite(python: OwnPython, base_url: str, episodes: int) -> float:
    """Seconds from the first episode's start to the last one's end; worker and first containers are up."""
    environment = EnvironmentSettings(
        id=str(TASKSET), args={"taskset": {"tasks": episodes}, "agent": _agent()}
    )
    apart = EnvironmentApart(environment, python)
    assert apart.toolset is not None
    ensure_image(apart.toolset, SandboxSettings())
    policy = {"kind": "openai", "model": "mock", "request_timeout": 60.0, "base_url": base_url}
    settings = WorkerSettings(
        run_id="benchmark",
        environment=environment,
        sandbox=with_image(apart.toolset, SandboxSettings()),
        policy=PolicyEndpoint.model_validate(policy),
        episodes=_AT_ONCE,
    )
    rows = apart.rows()
    specs = [
        EpisodeSpec(episode_id=f"e{n}", task_id=str(n), group_id=str(n), sample_index=0, row=rows[n])
        for n in range(episodes)
    ]
    worker = LanedWorker(settings, "benchmark", python)

    def play_one(spec: EpisodeSpec) -> EpisodeRecord:
        [result] = worker.play([spec])
        return EpisodeRecord.model_validate_json(result.record)

    worker.ready()
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            records = list(threads.map(play_one, specs))
        seconds = time.monotonic() - began
    finally:
        worker.stop()
    assert [len(record.steps) for record in records] == [3] * episodes, [r.error for r in records]
    return seconds


if __name__ == "__main__":
    main()
