"""The machine that a measurement was made on, as the header of every table says it."""

import os
import platform
from pathlib import Path

import docker
from rich.console import Console


def print_header(console: Console, title: str) -> None:
    """Prints what is measured, and on what. To be called before anything is loaded or started."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    console.print(f"[bold]{title}[/bold]")
    console.print(
        f"{os.cpu_count()} cores ({_cpu_name()}), {_memory_gb():.0f} GiB memory; "
        f"load average before the run {load}"
        f"\nLinux {platform.release()}, Docker engine {_engine_version()}, "
        f"Python {platform.python_version()}",
        highlight=False,
    )


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _engine_version() -> str:
    client = docker.from_env(timeout=10)
    try:
        return str(client.version()["Version"])
    finally:
        client.close()
