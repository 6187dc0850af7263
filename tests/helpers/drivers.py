"""Drivers as processes of their own: what outlives one, and what another finds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "driver.py"


@dataclass(frozen=True)
class Process:
    pid: int
    session: int
    command: str


def driver_environment(cache: Path, **more: str) -> dict[str, str]:
    """An environment for a driver with a cache folder of its own, without the Ray settings of this one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "KUMITE_CACHE": str(cache), "PYTHONPATH": str(ROOT), **more}


def drive(cache: Path, *arguments: str, timeout: float = 600, **environment: str) -> dict[str, Any]:
    """Runs `driver.py`, from a folder that is not the project's.

    Returns:
        What it printed last, from JSON.
    """
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments],
        env=driver_environment(cache, **environment),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def kumite_policy(cache: Path, *arguments: object) -> str:
    """What `kumite policy …` says."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "policy", *map(str, arguments)],
        env=driver_environment(cache, COLUMNS="200"),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def processes() -> list[Process]:
    """All processes of the machine but those that only wait to be reaped."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,sess=,stat=,args="], capture_output=True, text=True, timeout=10, check=True
    )
    rows = (line.split(None, 3) for line in listing.stdout.splitlines())
    return [Process(int(row[0]), int(row[1]), row[3]) for row in rows if not row[2].startswith("Z")]


def cluster_processes(cache: Path, session: int | None = None) -> list[Process]:
    """Processes of the cluster that is kept under a cache folder, or of a session that one had."""
    if session is None:
        record = cache / "ray" / "kept.json"
        if not record.is_file():
            return []
        session = int(json.loads(record.read_text())["pid"])
    return [process for process in processes() if process.session == session]
