"""A run under which workers, sandboxes and nodes are killed at random: whether it completes, at what cost."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import docker
import docker.errors
import psutil
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.kumite_run import ROOT
from tests.helpers.ray_head import RayHead, having, ray_head

EVERY, NODES, LIMIT = 5.0, 3, 220
"""Seconds between kills; nodes, of one worker each; seconds for a run."""


class Monkey:
    """Kills something of a run.

    Args:
        head: The cluster.
        run: The run's id.
        seed: For what is killed, and when.
    """

    def __init__(self, head: RayHead, run: str, seed: int) -> None:
        self._head = head
        self._run = run
        self._chance = random.Random(seed)
        self._nodes = [head.add_node(cpus=1, sandbox=1) for _ in range(NODES)]
        self.killed: Counter[str] = Counter()

    def strike(self) -> None:
        """Kills a worker, a sandbox or a node; a lost node is replaced."""
        kind = self._chance.choices(["worker", "sandbox", "node"], [4, 4, 1])[0]
        if {"worker": self._worker, "sandbox": self._sandbox, "node": self._node}[kind]():
            self.killed[kind] += 1

    def _worker(self) -> bool:
        pids = [pid for pid in having(self._head.folder / "token") if _is_worker(pid)]
        if pids:
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        return bool(pids)

    def _sandbox(self) -> bool:
        found = containers(self._run)
        if not found:
            return False
        client = docker.from_env(timeout=30)
        try:
            client.api.kill(self._chance.choice(found))
        except docker.errors.APIError:
            return False  # its own end came first
        finally:
            client.close()
        return True

    def _node(self) -> bool:
        index = self._chance.randrange(NODES)
        self._head.lose(self._nodes[index])
        self._nodes[index] = self._head.add_node(cpus=1, sandbox=1)
        return True


def containers(run: str) -> list[str]:
    """Ids of a run's containers."""
    client = docker.from_env(timeout=30)
    try:
        found = client.api.containers(all=True, filters={"label": [f"kumite.run={run}"]})
        return [container["Id"] for container in found]
    finally:
        client.close()


def measure(episodes: int, folder: Path, kill: bool) -> dict[str, Any]:
    """Plays AgentDojo's banking tasks by their ground truth on three nodes, with or without kills."""
    name = "chaos" if kill else "peace"
    with ray_head(cpus=0) as head:
        monkey = Monkey(head, name, seed=5)
        config = {
            "environment": {"id": "agentdojo", "args": {"suites": ["banking"]}},
            "policy": {"kind": "oracle"},
            "workers": {"min": NODES, "max": NODES, "episodes_per_worker": 8},
            "episode": {"attempts": {"worker": 6, "sandbox": 6}},
            "samples": episodes // 16,
            "ray": {"address": head.gcs},
        }
        written = folder / f"{name}.yaml"
        written.write_text(yaml.safe_dump(config))
        out = folder / name
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
                    monkey.strike()
                    due = time.monotonic() + EVERY
                time.sleep(0.1)
        if run.returncode:
            raise SystemExit(f"the run {name} failed with exit code {run.returncode}")
        left = containers(name)
    table = pq.read_table(out / "episodes", columns=["episode_id", "status", "attempt"]).to_pylist()
    return {
        "rows": len(table),
        "unique": len({row["episode_id"] for row in table}),
        "finished": sum(row["status"] == "finished" for row in table),
        "again": sum(row["attempt"] > 1 for row in table),
        "seconds": json.loads((out / "summary.json").read_text())["wall_seconds"],
        "killed": dict(monkey.killed),
        "left": len(left),
    }


def _is_worker(pid: int) -> bool:
    try:
        return "RolloutWorker" in psutil.Process(pid).cmdline()[0]
    except (psutil.Error, IndexError):
        return False


def main(console: Console, episodes: int, in_peace: bool) -> None:
    """Plays a run under fire, and one in peace beside it if asked, and prints the table."""
    columns = (
        "episodes",
        "in the dataset",
        "unique",
        "finished",
        "played again",
        "seconds",
        "containers left",
    )
    table = Table(title=f"Chaos: something is killed every {EVERY:g} s, on {NODES} nodes of one worker each")
    table.add_column("")
    for column in (*columns, "killed"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        for name, kill in (("in peace", False), ("under fire", True))[not in_peace :]:
            found = measure(episodes, Path(folder), kill)
            cells = (found[key] for key in ("rows", "unique", "finished", "again"))
            killed = ", ".join(f"{count} {kind}" for kind, count in sorted(found["killed"].items()))
            seconds = f"{found['seconds']:.0f}"
            table.add_row(name, str(episodes), *map(str, cells), seconds, str(found["left"]), killed or "–")
    console.print(table)
