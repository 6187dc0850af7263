"""Rollouts per second of the whole stack, beside AgentDojo's own runner; the policy is the ground truth.

`python -m benchmarks.throughput`; `--samples N` plays each of the 97 user tasks N times.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import agentdojo_serial, kumite_run
from benchmarks.figures import compare_rates, make_stage_table

TARGET = 5.0
CONFIG = Path(__file__).parents[1] / "examples" / "agentdojo_oracle.yaml"
_PEER_PASSES = 3
_LIMIT = 900
"""Seconds for each contender."""


def main() -> None:
    """Measures AgentDojo's runner, then Kumite, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16, help="rollouts per task")
    samples = parser.parse_args().samples
    console = Console(width=120)
    machine.print_header(
        console, "Throughput: AgentDojo v1.2.2, the 97 user tasks of four suites, ground truth"
    )
    peer = _measure_peer()
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        ours = kumite_run.play(CONFIG, [f"samples={samples}"], Path(folder, "run"), _LIMIT)
    console.print(_comparison_table(ours, peer))
    console.print(make_stage_table("Kumite: where an episode's time goes, mean seconds", ours["stages"]))
    console.print(_cpu_table(ours))


def _measure_peer() -> dict[str, Any]:
    program = [sys.executable, "-m", agentdojo_serial.__name__, "v1.2.2", str(_PEER_PASSES)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=_LIMIT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _comparison_table(ours: dict[str, Any], peer: dict[str, Any]) -> Table:
    table = Table(title="Rollouts per second, start-up excluded on both sides")
    for column in ("", "rollouts", "solved", "seconds", "rollouts/s", "CPU ms a rollout", "beside the peer"):
        table.add_column(column, justify="left" if not column else "right")
    seconds = sum(peer["seconds"].values())
    peer_rate = peer["rollouts"] / seconds
    table.add_row(
        "AgentDojo's runner: one process, no sandbox",
        str(peer["rollouts"]),
        str(peer["solved"]),
        f"{seconds:.1f}",
        f"{peer_rate:.1f}",
        f"{peer['cpu_seconds'] / peer['rollouts'] * 1000:.1f}",
        "1",
    )
    workers = yaml.safe_load(CONFIG.read_text())["workers"]
    for name, took in (("to the journal, on disk", ours["journalled"]), ("to Parquet", ours["committed"])):
        rate = ours["rollouts"] / took
        table.add_row(
            f"Kumite, {workers['max']} workers × {workers['episodes_per_worker']} episodes, {name}",
            str(ours["rollouts"]),
            f"{sum(metrics['utility'] for metrics in ours['metrics']):.0f}",
            f"{took:.1f}",
            f"{rate:.1f}",
            f"{sum(ours['cpu'].values()) / ours['rollouts'] * 1000:.1f}",
            compare_rates(rate, peer_rate, TARGET),
        )
    return table


def _cpu_table(ours: dict[str, Any]) -> Table:
    table = Table(title="Kumite: CPU ms of an episode by kind of process, while episodes are played")
    for kind in ours["cpu"]:
        table.add_column(kind, justify="right")
    table.add_row(*(f"{value / ours['rollouts'] * 1000:.1f}" for value in ours["cpu"].values()))
    return table


if __name__ == "__main__":
    main()
