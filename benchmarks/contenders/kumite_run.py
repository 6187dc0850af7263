"""A whole run by the command that users play by, in a process of its own, and what its files tell."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.cpu import CpuLedger
from cluster.dataset.arrow import pq

ROOT = Path(__file__).parents[2]
STAGES = ("queue", "setup", "policy", "tools", "scoring", "total")


def play(config: Path, overrides: list[str], folder: Path, limit: float) -> dict[str, Any]:
    """Plays a config.

    Args:
        config: The run's config.
        overrides: `key=value` for `--set`.
        folder: The run's folder, which must not be there yet.
        limit: Seconds after which it is given up.

    Returns:
        `rollouts`; `metrics`, one mapping per rollout; `journalled` and `committed`, seconds from the first
        episode's start until all were on disk and until they were Parquet; `stages`, mean seconds by
        stage; `cpu`, CPU seconds by kind of process while episodes were played; `peak_bytes`, the most
        memory that the run's processes had together.
    """
    sets = [argument for override in overrides for argument in ("--set", override)]
    command = [sys.executable, "-m", "cluster", "run", str(config), *sets, "--out", str(folder)]
    # No kept Ray cluster: this run has its own.
    environment = {**os.environ, "KUMITE_CACHE": f"{folder}-cache"}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as driver:
        try:
            with CpuLedger(driver.pid) as ledger:
                code = driver.wait(timeout=limit)
        finally:
            driver.terminate()
            with suppress(subprocess.TimeoutExpired):
                driver.wait(timeout=60)
            driver.kill()
    if code != 0:
        raise SystemExit(f"the run failed with exit code {code}")
    rows = pq.read_table(folder / "episodes", columns=["started_at", "timings", "metrics"]).to_pylist()
    start = min(row["started_at"] for row in rows)
    end = max(row["started_at"] + row["timings"]["total"] - row["timings"]["queue"] for row in rows)
    return {
        "rollouts": len(rows),
        "metrics": [json.loads(row["metrics"]) for row in rows],
        "journalled": json.loads((folder / "summary.json").read_text())["wall_seconds"],
        "committed": (folder / "manifest.json").stat().st_mtime - start,
        "stages": {name: sum(row["timings"][name] for row in rows) / len(rows) for name in STAGES},
        "cpu": ledger.seconds_between(start, end),
        "peak_bytes": ledger.peak_bytes,
    }
