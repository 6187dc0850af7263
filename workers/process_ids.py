"""Processes told apart: a process id is given out again, but not with the time of its start."""

from pathlib import Path


def read_start_time(pid: int) -> str:
    """Reads when a process started, in clock ticks since boot; empty if there is none that runs.

    One that has ended and waits to be reaped does not run.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
