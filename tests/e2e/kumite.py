"""The command `kumite` as a process of its own, and what it leaves behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from cluster.cache import cache_dir
from tests.helpers.driver_forks import KUMITE, ROOT, own_variables, start_driver

PATIENCE = 600
"""Seconds after which a run that should have ended is a failure."""


class Run:
    """A `kumite` process under way.

    Args:
        arguments: What follows `kumite` on the command line.
        cache: Its cache folder.
        env: Its environment. None: this one, without what Ray has left in it.
        forked: Whether it may be a fork of a process that has imported what it needs.
    """

    def __init__(
        self, *arguments: str, cache: Path, env: dict[str, str] | None = None, forked: bool = True
    ) -> None:
        self._log = cache / f"log-{time.monotonic_ns()}"
        given = {
            **(env or own_variables()),
            "KUMITE_CACHE": str(cache),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }
        self.process = start_driver(KUMITE, arguments, given, ROOT, self._log, forked=forked)

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to the driver, and to Ray's processes, which are all in its session."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def output(self) -> str:
        return self._log.read_text()


def processes_of(run: Run) -> list[str]:
    """What is left of a run's processes: all of them, Ray's included, are in the driver's session."""
    left: list[str] = []
    for process in psutil.process_iter(["pid", "name"]):
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == run.process.pid:
                left.append(str(process.info))
    return left


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {patience:g} s"
        time.sleep(0.2)  # many a look asks the engine, or goes through all processes


def journalled(folder: Path) -> int:
    """Episodes that a run has on record by now."""
    lines = sum(len(path.read_bytes().splitlines()) for path in (folder / "journal").glob("*.jsonl"))
    manifest = folder / "manifest.json"
    shards = json.loads(manifest.read_text())["shards"] if manifest.exists() else []
    return lines + sum(shard["episodes"] for shard in shards)


def cache_in(folder: Path) -> Path:
    """A cache of a test's own, so that it never meets a kept cluster; what is slow to make is shared."""
    folder.mkdir()
    for name in ("models", "sites", "pythons", "locks"):
        (cache_dir() / name).mkdir(parents=True, exist_ok=True)
        os.symlink(cache_dir() / name, folder / name)
    return folder


def write_config(path: Path, **fields: object) -> Path:
    path.write_text(yaml.safe_dump(fields))
    return path


def banking(base_url: str, **fields: object) -> dict[str, object]:
    """AgentDojo's banking tasks against a policy at an URL."""
    return {
        "environment": {"id": "agentdojo", "args": {"suites": ["banking"], "max_turns": 3}},
        "policy": {"kind": "endpoint", "base_url": base_url, "model": "mock", "token_ids": True},
        "workers": {"min": 2, "max": 2, "episodes_per_worker": 4},
        **fields,
    }
