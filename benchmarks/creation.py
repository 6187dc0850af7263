"""What a container per episode costs: the wait for one, the rate the engine sustains, latency at 1, 4 and 16;
and beside it forked sessions, 64 of them live. Under runc, and under gVisor where the engine knows it.

`python -m benchmarks.creation`; with `--quick`, a quarter of the samples.
"""

import argparse
import asyncio
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from statistics import median

import docker
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import docker_sdk, verifiers_docker
from benchmarks.figures import median_and_p95, ms, verdict
from sandbox_images.build import build_image
from workers.environments.agentdojo_tasks import TaskSelection, rows
from workers.sandbox import creation
from workers.sandbox.base import Owner, ToolsetSpec
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings

WAIT_TARGET = 0.05
LIVE = 64
AT_ONCE = (1, 4, 16)
_LIMIT = 900.0
_NOTHING = 1 << 20
_STARTS = "from request to tool host up, {} at once"
_SHELL = ToolsetSpec("shell", "sandbox_images.shell.toolset:ShellToolset", session_users=True)
_AGENTDOJO = ToolsetSpec(
    "agentdojo",
    "sandbox_images.agentdojo.toolset:AgentDojoToolset",
    {"version": "v1.2.2", "suites": ["workspace", "travel", "banking", "slack"]},
)


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the samples")
    parser.add_argument("--runtimes", nargs="+", help="OCI runtimes; those of runc and runsc that are there")
    arguments = parser.parse_args()
    samples = 8 if arguments.quick else 32
    console = Console(width=160)
    machine.header(console, "Containers: one to an episode, prepared ahead")
    if os.getloadavg()[0] > 2:
        console.print("[yellow]The machine was busy: these figures are worse than it can do.[/yellow]")
    found = {
        runtime: asyncio.run(asyncio.wait_for(_measure(runtime, samples), _LIMIT))
        for runtime in arguments.runtimes or _known()
    }
    peer = asyncio.run(asyncio.wait_for(_peer(samples), _LIMIT))
    console.print(_table(found, peer))


def _known() -> list[str]:
    with docker_sdk.engine() as client:
        known = client.info()["Runtimes"]
    return [runtime for runtime in ("runc", "runsc") if runtime in known]


def _table(found: dict[str, dict[str, str]], peer: dict[str, str]) -> Table:
    table = Table(show_lines=True, caption="Median, 95th percentile. The peer's containers run `sleep`.")
    for column in ("measure", *(f"Kumite, {runtime}" for runtime in found), "verifiers' Docker runtime"):
        table.add_column(column)
    for measure in next(iter(found.values())):
        cells = [figures[measure] for figures in found.values()]
        table.add_row(measure, *cells, peer.get(measure, "–"))
    return table


async def _measure(runtime: str, samples: int) -> dict[str, str]:
    """Figures under one runtime, by measure."""
    shell = partial(_pool, build_image("shell"), _SHELL, runtime)
    forked = partial(_pool, build_image("agentdojo"), _AGENTDOJO, runtime, 0, "fork")
    rate = await _rate(shell(4), samples)
    waits = await _waits(shell(4), samples, pause=2 / rate)
    found = {
        "wait for a container, creation keeping up": "\n".join(
            (median_and_p95(waits), verdict(median(waits), WAIT_TARGET, f"≤ {ms(WAIT_TARGET)}"))
        ),
        "containers made, used and removed, sustained": f"{rate:.2f}/s",
    }
    for at_once in AT_ONCE:
        latency = await _latency(shell, at_once, at_once, max(1, samples // at_once))
        found[_STARTS.format(at_once)] = median_and_p95(latency)
    latency = await _latency(shell, 16, creation.AT_ONCE, max(1, samples // 16))
    found[f"the same, 16 at once, {creation.AT_ONCE} of them asked of the engine"] = median_and_p95(latency)
    return {**found, **await _sessions(forked(), samples)}


async def _peer(samples: int) -> dict[str, str]:
    image = build_image("shell")
    return {
        _STARTS.format(at_once): median_and_p95(
            await verifiers_docker.starts(image, at_once, max(1, samples // at_once))
        )
        for at_once in AT_ONCE
    }


def _pool(
    image: str, spec: ToolsetSpec, runtime: str, ahead: int = 0, recycle: str = "episode"
) -> SandboxPool:
    settings = SandboxSettings.model_validate({"image": image, "recycle": recycle, "runtime": runtime})
    return SandboxPool(spec, settings, Owner("benchmark", uuid.uuid4().hex[:8]), ahead)


async def _waits(pool: SandboxPool, samples: int, pause: float) -> list[float]:
    """Episodes that come at half the rate which creation sustains."""
    waits: list[float] = []
    try:
        await pool.prepare()
        await asyncio.sleep(4 * pause)
        for _ in range(samples):
            began = time.perf_counter()
            session = await pool.acquire(uuid.uuid4().hex)
            waits.append(time.perf_counter() - began)
            await pool.release(session)
            await asyncio.sleep(pause)
    finally:
        await pool.close()
    return waits


async def _rate(pool: SandboxPool, samples: int) -> float:
    try:
        await pool.prepare()
        began = time.perf_counter()
        for _ in range(samples):
            await pool.release(await pool.acquire(uuid.uuid4().hex))
        return samples / (time.perf_counter() - began)
    finally:
        await pool.close()


async def _latency(
    make: Callable[[], SandboxPool], at_once: int, engine_at_once: int, rounds: int
) -> list[float]:
    before, creation.AT_ONCE = creation.AT_ONCE, engine_at_once
    try:
        return [seconds for _ in range(rounds) for seconds in await _burst(make, at_once)]
    finally:
        creation.AT_ONCE = before


async def _burst(make: Callable[[], SandboxPool], at_once: int) -> list[float]:
    pools = [make() for _ in range(at_once)]

    async def up(pool: SandboxPool) -> float:
        began = time.perf_counter()
        await pool.prepare()
        return time.perf_counter() - began

    try:
        return await asyncio.gather(*(up(pool) for pool in pools))
    finally:
        await asyncio.gather(*(pool.close() for pool in pools))


async def _sessions(pool: SandboxPool, samples: int) -> dict[str, str]:
    """Forked AgentDojo sessions: time to open and close one, to call a tool, and memory of many."""
    task = rows(TaskSelection(suites=["workspace"]))[0]["info"]
    opens: list[float] = []
    calls: list[float] = []
    try:
        began = time.perf_counter()
        await pool.prepare()
        cold = time.perf_counter() - began
        first = await pool.acquire("first")
        await first.open(task)
        for number in range(samples):
            began = time.perf_counter()
            session = await pool.acquire(f"o{number}")
            await session.open(task)
            await pool.release(session)
            opens.append(time.perf_counter() - began)
        for _ in range(10 * samples):
            began = time.perf_counter()
            await first.call("get_current_day", {})
            calls.append(time.perf_counter() - began)
        with docker_sdk.engine() as client:
            before = _used(client, first.sandbox.id)
            for number in range(LIVE):
                await (await pool.acquire(f"s{number}")).open(task)
            memory = (_used(client, first.sandbox.id) - before) / LIVE
    finally:
        await pool.close()
    return {
        "AgentDojo: container from cold, four suites loaded": ms(cold),
        "AgentDojo: forked session, open and close": median_and_p95(opens),
        "AgentDojo: tool call": median_and_p95(calls),
        f"AgentDojo: memory of one of {LIVE} live sessions in a container": (f"{memory / 2**20:.1f} MiB"),
    }


def _used(client: docker.DockerClient, container: str) -> int:
    """The container's memory, in bytes; of its processes where its runtime heeds no control group."""
    counted = int(client.api.stats(container, stream=False)["memory_stats"].get("usage", 0))
    if counted > _NOTHING:
        return counted
    processes = psutil.process_iter(["cmdline"])
    its = [process for process in processes if container in " ".join(process.info["cmdline"] or [])]
    return sum(int(process.memory_full_info().pss) for process in its)


if __name__ == "__main__":
    main()
