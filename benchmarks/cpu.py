"""CPU seconds and memory of a run by kind of process, sampled from outside while it goes on."""

import threading
import time
from bisect import bisect_left
from contextlib import suppress
from typing import Any, Self, cast

import docker
import docker.errors
import psutil

_SAMPLE_INTERVAL = 0.5
"""Seconds between samples."""
_ENGINE = ("dockerd", "containerd", "containerd-shim")


class CpuLedger:
    """Samples CPU seconds while it is entered; says afterwards how many fell between two moments.

    Kinds: `driver`, `workers` and their lanes, `ray` (its other processes), `containers` (all that is in
    them), `engine` (Docker's own processes on this machine, whoever they work for).

    Args:
        driver: Process id of the run's driver, which has started Ray.
    """

    def __init__(self, driver: int) -> None:
        self._driver = psutil.Process(driver)
        self.peak_bytes = 0
        """Most memory of the run's processes and containers together, without what they share with others:
        the engine's own is left out."""
        self._moments: list[float] = []
        self._samples: list[dict[str, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_ended, name="cpu-ledger", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def seconds_between(self, start: float, end: float) -> dict[str, float]:
        """CPU seconds by kind between two moments, in seconds since the epoch.

        What has ended by then counts until it was last seen.
        """
        first, last = self._interpolate(start), self._interpolate(end)
        return {kind: last[kind] - first.get(kind, 0.0) for kind in last}

    def _interpolate(self, moment: float) -> dict[str, float]:
        """The sample at a moment, interpolated between its neighbours."""
        after = min(max(bisect_left(self._moments, moment), 1), len(self._moments) - 1)
        earlier, later = self._samples[after - 1], self._samples[after]
        span = self._moments[after] - self._moments[after - 1]
        share = (moment - self._moments[after - 1]) / span
        return {
            kind: earlier.get(kind, 0.0) + share * (seconds - earlier.get(kind, 0.0))
            for kind, seconds in later.items()
        }

    def _sample_until_ended(self) -> None:
        client = docker.from_env(timeout=10)
        processes: dict[psutil.Process, float] = {}
        containers: dict[str, float] = {}
        kinds: dict[psutil.Process, str] = {}
        while not self._ended.wait(_SAMPLE_INTERVAL):
            memory = 0
            for process, kind in _process_seconds(self._driver):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    if kind != "engine":
                        memory += process.memory_info().rss - process.memory_info().shared
                    processes[process] = times.user + times.system
                    kinds[process] = kind
            for container in _container_seconds(client):
                with suppress(docker.errors.APIError, ValueError, KeyError):  # it may be going
                    containers[container], used = _container_usage(client, container)
                    memory += used
            self.peak_bytes = max(self.peak_bytes, memory)
            sample = {"containers": sum(containers.values())}
            for process, seconds in processes.items():
                sample[kinds[process]] = sample.get(kinds[process], 0.0) + seconds
            self._moments.append(time.time())
            self._samples.append(sample)
        client.close()


def _process_seconds(driver: psutil.Process) -> list[tuple[psutil.Process, str]]:
    found = [(driver, "driver")]
    with suppress(psutil.Error):
        for process in driver.children(recursive=True):
            command = process.cmdline()
            is_worker = "RolloutWorker" in "".join(command[:1]) or "workers.lanes.process" in "".join(command)
            found.append((process, "workers" if is_worker else "ray"))
    engine = (
        process for process in psutil.process_iter(["name"]) if process.info["name"].startswith(_ENGINE)
    )
    return [*found, *((process, "engine") for process in engine)]


def _container_seconds(client: docker.DockerClient) -> list[str]:
    found = cast("list[dict[str, str]]", client.api.containers(filters={"label": "kumite.run"}))
    return [entry["Id"] for entry in found]


def _container_usage(client: docker.DockerClient, container: str) -> tuple[float, int]:
    """CPU seconds so far, and bytes of memory now."""
    stats = cast("dict[str, Any]", client.api.stats(container, stream=False, one_shot=True))
    return float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9, int(stats["memory_stats"]["usage"])
