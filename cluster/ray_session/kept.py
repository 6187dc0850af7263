"""The local Ray cluster that outlives its driver: the process that holds it, and the record of it.

That process is `cluster.ray_session.holder`. While it lives it holds a lock, so whether the record is of a
living cluster is never a guess, and never a question of whose process id that is.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

from cluster.cache import cache_dir
from cluster.errors import RayUnavailable
from cluster.ray_session import engine_folders

STOP_TIMEOUT = 20.0
"""Seconds that the cluster has to end after SIGTERM, before it is killed; 2 are usual."""


class KeptCluster(BaseModel):
    """The record of a kept cluster, as its holder writes it."""

    pid: int
    """The holder: leader of a session of its own, which all processes of the cluster belong to."""
    address: str
    """Ray's address, on the loopback interface."""
    logs: Path
    """Ray's own logs."""
    started_at: float
    """Seconds since the epoch."""


class Lease:
    """A driver's claim on the kept cluster, for as long as its process lives or until it is released."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = _open_lease()
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def is_only_one(self) -> bool:
        """Whether no other driver has one."""
        if self._file is None:
            return not has_leases()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            fcntl.flock(self._file, fcntl.LOCK_SH)
        return True

    def release(self) -> None:
        """Gives the claim up. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


def has_leases() -> bool:
    """Returns whether any driver holds a lease on the kept cluster."""
    with _open_lease() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def record_folder() -> Path:
    """The folder of the kept cluster's record, lock and log."""
    return cache_dir() / "ray"


def lock_file() -> Path:
    """The file that the holder has locked while it lives."""
    return record_folder() / "kept.lock"


def find_kept() -> KeptCluster | None:
    """The kept cluster, if one is alive."""
    if not _is_held():
        return None
    try:
        return KeptCluster.model_validate_json(record_file().read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def start_kept(options: dict[str, object], timeout: float) -> KeptCluster:
    """Starts the holder, and waits until its cluster is up.

    Args:
        options: Keyword arguments of `ray.init`, as JSON can hold them.
        timeout: Seconds to wait.

    Raises:
        RayUnavailable: It did not come up.
    """
    record_folder().mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[2]
    path = os.pathsep.join(part for part in (str(root), os.environ.get("PYTHONPATH")) if part)
    log = record_folder() / "kept.log"
    with log.open("wb") as output:
        holder = subprocess.Popen(
            [sys.executable, "-m", "cluster.ray_session.holder", json.dumps(options)],
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and holder.poll() is None:
            kept = find_kept()
            if kept is not None and kept.pid == holder.pid:
                return kept
            time.sleep(0.1)
        within = f" within {timeout:.0f} s" if holder.poll() is None else ""
        raise RayUnavailable(f"the local Ray cluster to keep did not come up{within}: {_log_tail(log)}")
    except BaseException:
        _end_holder(holder.pid, lambda: holder.poll() is not None)
        raise


def stop_kept() -> bool:
    """Ends the kept cluster and everything in it; returns when its processes are gone.

    Returns:
        Whether there was one.
    """
    kept = find_kept()
    if kept is None:
        return False
    _end_holder(kept.pid, lambda: not _is_held())
    return True


def _end_holder(pid: int, gone: Callable[[], bool]) -> None:
    """SIGTERM to the holder, SIGKILL to whatever of its session is left after that."""
    _signal_holder(pid, signal.SIGTERM)
    _wait_until(gone, STOP_TIMEOUT)
    for left in _session_processes(pid):
        _signal_holder(left, signal.SIGKILL)
    _wait_until(lambda: not _session_processes(pid), 5.0)
    record_file().unlink(missing_ok=True)
    engine_folders.remove_stale_folders()


def _signal_holder(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_until(done: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not done() and time.monotonic() < deadline:
        time.sleep(0.1)


def _session_processes(leader: int) -> list[int]:
    """Processes of a session. `setsid` made it for the holder alone, so all in it are the cluster's."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,sess=,stat="], capture_output=True, text=True, timeout=10, check=True
    )
    rows = (line.split() for line in listing.stdout.splitlines())
    return [int(pid) for pid, session, state in rows if int(session) == leader and not state.startswith("Z")]


def record_file() -> Path:
    """Where the holder writes its record."""
    return record_folder() / "kept.json"


def _open_lease() -> IO[bytes]:
    record_folder().mkdir(parents=True, exist_ok=True)
    return (record_folder() / "in-use.lock").open("ab")


def _is_held() -> bool:
    """Whether a holder is alive: whether its lock is taken."""
    try:
        with lock_file().open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _log_tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
