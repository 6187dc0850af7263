"""Drivers as processes of their own: what outlives one, and what another finds."""

import json
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.driver_forks import KUMITE, ROOT, own_variables, start_driver

DRIVER = "tests.helpers.driver:main"


@dataclass(frozen=True)
class Process:
    pid: int
    session: int
    command: str


def driver_environment(cache: Path, **more: str) -> dict[str, str]:
    """An environment for a driver with a cache folder of its own, without the Ray settings of this one."""
    return {**own_variables(), "KUMITE_CACHE": str(cache), "PYTHONPATH": str(ROOT), **more}


def drive(cache: Path, *arguments: str, timeout: float = 600, **environment: str) -> dict[str, Any]:
    """Runs `driver.py`, from a folder that is not the project's.

    Returns:
        What it printed last, from JSON.
    """
    said = _ended_well(DRIVER, arguments, driver_environment(cache, **environment), timeout)
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def kumite_policy(cache: Path, *arguments: object) -> str:
    """What `kumite policy …` says."""
    return _ended_well(
        KUMITE, ["policy", *map(str, arguments)], driver_environment(cache, COLUMNS="200"), 600
    )


def _ended_well(main: str, arguments: Sequence[str], environment: dict[str, str], timeout: float) -> str:
    """What a driver says on its standard output; it must end with exit code 0."""
    with tempfile.TemporaryDirectory(prefix="kumite-test-driver-") as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = start_driver(main, arguments, environment, Path("/"), output, errors)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise
        assert code == 0, errors.read_text()[-4000:]
        return output.read_text()


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
