"""Whether twice the nodes play twice the episodes, as far as one machine can tell: its nodes only wait."""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.kumite_run import ROOT
from benchmarks.scaling import waiting_environment
from cluster.dataset.arrow import pq
from tests.helpers.ray_head import ray_head

SECONDS, PER_WORKER, ROUNDS = 4.0, 16, 6
"""Seconds of an episode; episodes at once on a node, which has one worker; episodes per place."""


def make_config(nodes: int, gcs: str) -> dict[str, Any]:
    """Of a run with one worker on each of so many nodes, of the cluster at an address."""
    return {
        "environment": {
            "id": waiting_environment.__name__,
            "args": {"tasks": nodes * PER_WORKER * ROUNDS, "seconds": SECONDS},
        },
        "policy": {"kind": "oracle"},
        "workers": {"min": nodes, "max": nodes, "episodes_per_worker": PER_WORKER, "cpus_per_worker": 1.0},
        "ray": {"address": gcs},
    }


def measure(nodes: int, folder: Path) -> float:
    """Episodes per second on so many nodes, start-up excluded."""
    with ray_head(cpus=0) as head:
        for _ in range(nodes):
            head.add_node(cpus=1, sandbox=1)
        written = folder / "config.yaml"
        written.write_text(yaml.safe_dump(make_config(nodes, head.gcs)))
        out = folder / f"run-{nodes}"
        command = [sys.executable, "-m", "cluster", "run", str(written), "--out", str(out)]
        environment = {**os.environ, **head.environment}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=220, capture_output=True)
    return sum(_worker_rate(ends) for ends in _read_ends_by_worker(out))


def _read_ends_by_worker(run: Path) -> list[list[float]]:
    columns = ["worker_id", "started_at", "timings", "status"]
    ends: defaultdict[str, list[float]] = defaultdict(list)
    for row in pq.read_table(run / "episodes", columns=columns).to_pylist():
        if row["status"] != "finished":
            raise SystemExit(f"an episode failed: see {run}")
        end = row["started_at"] + row["timings"]["total"] - row["timings"]["queue"]
        ends[row["worker_id"]].append(end)
    return [sorted(each) for each in ends.values()]


def _worker_rate(ends: list[float]) -> float:
    """A worker's episodes per second, from the end of its first full wave to that of its last."""
    full = len(ends) // PER_WORKER * PER_WORKER
    return (full - PER_WORKER) / (ends[full - 1] - ends[PER_WORKER - 1])


def main(console: Console, sizes: list[int]) -> None:
    """Measures each number of nodes, and prints the table."""
    table = Table(title=f"Simulated nodes: one worker each, {PER_WORKER} episodes at once of {SECONDS:g} s")
    for column in ("nodes", "episodes/s", "ideal", "efficiency"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        for nodes in sizes:
            rate = measure(nodes, Path(folder))
            ideal = nodes * PER_WORKER / SECONDS
            table.add_row(str(nodes), f"{rate:.2f}", f"{ideal:.2f}", f"{rate / ideal:.0%}")
    console.print(table)
