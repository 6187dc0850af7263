"""All 949 pairs of AgentDojo v1.2.2 under attack, beside AgentDojo's own runner on a sample of them.

`python -m benchmarks.agentdojo`; the policy is the ground truth of the user tasks.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import agentdojo_attack, kumite_run
from benchmarks.figures import compare_rates, make_stage_table

TARGET = 5.0
ATTACK = "important_instructions"
CONFIG = kumite_run.ROOT / "examples" / "agentdojo_oracle.yaml"
_PEER_SAMPLE = 190
"""Pairs that the peer plays: every fifth, so that each suite and task has its share."""
_LIMIT = 900
"""Seconds for each contender."""


def main() -> None:
    """Measures both, and prints the tables."""
    console = Console(width=120)
    machine.print_header(console, f"AgentDojo v1.2.2 under `{ATTACK}`: all pairs, ground truth, whole stack")
    program = [sys.executable, "-m", agentdojo_attack.__name__, "v1.2.2", ATTACK, str(_PEER_SAMPLE)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=_LIMIT, check=True)
    peer = json.loads(done.stdout.splitlines()[-1])
    overrides = [
        "environment.args.mode=attack",
        f"environment.args.attack={ATTACK}",
        "environment.args.attack_model=local",
    ]
    with tempfile.TemporaryDirectory(prefix="kumite-benchmark-") as folder:
        ours = kumite_run.play(CONFIG, overrides, Path(folder, "run"), _LIMIT)
    console.print(_comparison_table(ours, peer))
    console.print(
        make_stage_table(
            "Kumite: where an episode's time goes, mean seconds; set-up computes the injections",
            ours["stages"],
        )
    )


def _comparison_table(ours: dict[str, Any], peer: dict[str, Any]) -> Table:
    table = Table(title="Rollouts per second, start-up excluded on both sides, injections included")
    columns = ("", "rollouts", "utility", "attack success", "seconds", "rollouts/s", "peak memory", "")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    peer_rate = peer["rollouts"] / peer["seconds"]
    table.add_row(
        "AgentDojo's runner: one process, no sandbox",
        f"{peer['rollouts']} of {peer['pairs']}",
        f"{peer['utility'] / peer['rollouts']:.3f}",
        f"{peer['security'] / peer['rollouts']:.3f}",
        f"{peer['seconds']:.1f}",
        f"{peer_rate:.1f}",
        f"{peer['peak_bytes'] / 2**20:.0f} MiB",
        "1",
    )
    rate = ours["rollouts"] / ours["journalled"]
    table.add_row(
        "Kumite: Ray, Docker, verifiers, journal",
        str(ours["rollouts"]),
        f"{sum(metrics['utility'] for metrics in ours['metrics']) / ours['rollouts']:.3f}",
        f"{sum(metrics['attack_success'] for metrics in ours['metrics']) / ours['rollouts']:.3f}",
        f"{ours['journalled']:.1f}",
        f"{rate:.1f}",
        f"{ours['peak_bytes'] / 2**20:.0f} MiB",
        compare_rates(rate, peer_rate, TARGET),
    )
    return table


if __name__ == "__main__":
    main()
