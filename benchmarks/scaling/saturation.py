"""Whether a policy that takes a second per answer is kept as busy as the run may keep it."""

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import kumite_run
from benchmarks.scaling import policy_server

LATENCY, TURNS, ROUNDS = 1.0, 10, 4
"""Seconds per answer; answers per episode; episodes that follow each other in each place."""
TARGET = 0.97


@contextmanager
def start_policy_server(seconds: float, tool: str) -> Generator[str]:
    """A policy server as a process of its own: its URL."""
    command = [sys.executable, "-m", policy_server.__name__, str(seconds), tool]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def mean_in_flight(load: list[tuple[float, int]], start: float, end: float) -> float:
    """The mean of what was in flight between two moments."""
    area, moment, level = 0.0, start, 0
    for at, now in load:
        if at > start:
            area += level * (min(at, end) - moment)
            moment = min(at, end)
        if at >= end:
            break
        level = now
    return area / (end - start)


def measure(at_once: int, folder: Path) -> dict[str, Any]:
    """Plays AgentDojo's banking tasks in Docker, so many at once.

    Steady is from when every place has been taken once to when the first has nothing more to take.
    """
    episodes = at_once * ROUNDS
    with start_policy_server(LATENCY, "get_balance") as url:
        config = {
            "environment": {"id": "agentdojo", "args": {"suites": ["banking"], "max_turns": TURNS}},
            "policy": {"kind": "endpoint", "base_url": url, "model": "mock"},
            "workers": {"min": 2, "max": 2, "episodes_per_worker": at_once // 2},
            "sandbox": {"memory_mb": 4096},
            "samples": episodes // 16,
        }
        written = folder / f"{at_once}.yaml"
        written.write_text(yaml.safe_dump(config))
        ours = kumite_run.play(written, [], folder / f"run-{at_once}", 220)
        load = json.load(urllib.request.urlopen(f"{url}/load", timeout=30))
    first = load[0][0]
    start = first + (TURNS + 1) * LATENCY
    end = max(at for at, _ in load) - (TURNS + 3) * LATENCY
    return {**ours, "mean": mean_in_flight(load, start, end), "steady": end - start}


def main(console: Console, sizes: list[int]) -> None:
    """Measures each size, and prints the table."""
    table = Table(title=f"Saturation: {LATENCY:g} s per answer, {TURNS} answers and tool calls per episode")
    for column in ("in flight", "mean of requests", "share", "steady s", "episodes/s", "queue s", "set-up s"):
        table.add_column(column, justify="right")
    for column in ("policy s", "tools s", "scoring s", "CPU ms: driver", "workers", "sandboxes", "ray"):
        table.add_column(column, justify="right")
    table.add_column("cores busy", justify="right")
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        for at_once in sizes:
            found = measure(at_once, Path(folder))
            share = found["mean"] / at_once
            console.print(f"{at_once} in flight: {share:.1%} of them are with the policy", style="dim")
            cpu = {kind: 1000 * seconds / found["rollouts"] for kind, seconds in found["cpu"].items()}
            cpu["sandboxes"] = cpu["containers"] + cpu["engine"]
            stages = found["stages"]
            table.add_row(
                str(at_once),
                f"{found['mean']:.1f}",
                f"{share:.1%} {'✓' if share >= TARGET else '✗'}",
                f"{found['steady']:.0f}",
                f"{found['rollouts'] / found['journalled']:.1f}",
                *(f"{stages[name]:.3f}" for name in ("queue", "setup", "policy", "tools", "scoring")),
                *(f"{cpu[kind]:.0f}" for kind in ("driver", "workers", "sandboxes", "ray")),
                f"{sum(found['cpu'].values()) / found['journalled']:.2f}",
            )
    console.print(table)
