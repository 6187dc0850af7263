"""A run under which workers, sandboxes, nodes and replicas of its policy are killed: what it comes to."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.kumite_run import ROOT
from benchmarks.scaling.served_policy import SUITE, VERSION, serve_policy_on_cluster
from cluster.dataset.arrow import pq
from tests.helpers.ray_head import RayHead, command_of, having, ray_head
from tests.helpers.run_containers import containers, kill_container

EVERY, NODES, LIMIT, SEED = 5.0, 3, 220, 5
"""Seconds between kills; nodes, of one worker each; seconds for a run; of what is killed."""
KILL_KINDS = ("worker", "replica", "sandbox", "node", "worker", "replica", "sandbox")
"""What is killed, in turn."""


class ChaosMonkey:
    """A source of failures that kills parts of a running run.

    Args:
        head: The cluster.
        run: The run's id.
        seed: For which one is killed.
    """

    def __init__(self, head: RayHead, run: str, seed: int) -> None:
        self._head = head
        self._run = run
        self._chance = random.Random(seed)
        self._kinds = itertools.cycle(KILL_KINDS)
        self._nodes = [head.add_node(cpus=1, sandbox=1) for _ in range(NODES)]
        self.killed: Counter[str] = Counter()

    def kill_next(self) -> None:
        """Kills the next kind of thing; a lost node is replaced."""
        match kind := next(self._kinds):
            case "worker":
                done = self._kill_process("RolloutWorker")
            case "replica":
                done = self._kill_process("Replica:")
            case "sandbox":
                done = self._kill_sandbox()
            case _:
                done = self._kill_node()
        self.killed[kind] += done

    def _kill_process(self, name: str) -> bool:
        pids = [pid for pid in having(self._head.folder / "token") if name in command_of(pid)]
        if pids:
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        return bool(pids)

    def _kill_sandbox(self) -> bool:
        found = containers(self._run)
        return bool(found) and kill_container(self._chance.choice(found))

    def _kill_node(self) -> bool:
        index = self._chance.randrange(NODES)
        self._head.lose(self._nodes[index])
        self._nodes[index] = self._head.add_node(cpus=1, sandbox=1)
        return True


def measure(episodes: int, folder: Path, kill: bool) -> dict[str, Any]:
    """Plays AgentDojo's banking tasks by their ground truth on three nodes, with or without kills."""
    name = f"{'chaos' if kill else 'peace'}-{uuid.uuid4().hex[:8]}"
    out = folder / name
    with ray_head(cpus=0) as head, serve_policy_on_cluster(head, folder) as url:
        monkey = ChaosMonkey(head, name, SEED)
        config = {
            "environment": {"id": "agentdojo", "args": {"version": VERSION, "suites": [SUITE]}},
            "policy": {"kind": "endpoint", "base_url": url, "model": "mock"},
            "workers": {"min": NODES, "max": NODES, "episodes_per_worker": 8},
            "episode": {"attempts": {"worker": 6, "sandbox": 6}},
            "samples": episodes // 16,
            "ray": {"address": head.gcs},
        }
        written = folder / f"{name}.yaml"
        written.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "cluster", "run", str(written), "--out", str(out)]
        environment = {**os.environ, **head.environment}
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            deadline, due = time.monotonic() + LIMIT, None
            while run.poll() is None:
                if time.monotonic() > deadline:
                    run.kill()
                    raise SystemExit(f"the run {name} is not over after {LIMIT} s")
                if due is None and (out / "metrics.jsonl").exists():
                    due = time.monotonic() + EVERY
                if kill and due is not None and time.monotonic() > due:
                    monkey.kill_next()
                    due = time.monotonic() + EVERY
                time.sleep(0.1)
        if run.returncode:
            raise SystemExit(f"the run {name} failed with exit code {run.returncode}")
        left = containers(name)
    table = pq.read_table(out / "episodes", columns=["episode_id", "status", "attempt", "reward"]).to_pylist()
    return {
        "rows": len(table),
        "unique": len({row["episode_id"] for row in table}),
        "finished": sum(row["status"] == "finished" for row in table),
        "solved": sum(row["reward"] == 1.0 for row in table),
        "again": sum(row["attempt"] > 1 for row in table),
        "seconds": json.loads((out / "summary.json").read_text())["wall_seconds"],
        "killed": dict(monkey.killed),
        "left": len(left),
    }


def main(console: Console, episodes: int, in_peace: bool) -> None:
    """Plays a run under fire, and one in peace beside it if asked, and prints the table."""
    columns = ("episodes", "in the dataset", "unique", "finished", "solved", "played again", "seconds")
    table = Table(
        title=f"Chaos: something is killed every {EVERY:g} s, on {NODES} nodes of one worker each; "
        "the ground truth is served by 2 replicas"
    )
    table.add_column("")
    for column in (*columns, "time lost", "containers left", "killed"):
        table.add_column(column, justify="right")
    peace: float | None = None
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        for name, kill in (("in peace", False), ("under fire", True))[not in_peace :]:
            found = measure(episodes, Path(folder), kill)
            cells = (found[key] for key in ("rows", "unique", "finished", "solved", "again"))
            killed = ", ".join(f"{count} {kind}" for kind, count in sorted(found["killed"].items()))
            lost = "–" if not kill or peace is None else f"{found['seconds'] - peace:.0f} s"
            peace = peace or found["seconds"]
            seconds = f"{found['seconds']:.0f}"
            left = str(found["left"])
            table.add_row(name, str(episodes), *map(str, cells), seconds, lost, left, killed or "–")
    console.print(table)
