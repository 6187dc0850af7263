"""What a container per episode costs: the wait for one, the rate the engine sustains, latency at 1, 4 and 16.

`python -m benchmarks.creation`; with `--quick`, a quarter of the samples.
"""

import argparse
import asyncio
import os
import time
import uuid
from statistics import median

import docker
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import docker_sdk
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
_SHELL = ToolsetSpec("shell", "sandbox_images.shell.toolset:ShellToolset")
_AGENTDOJO = ToolsetSpec("agentdojo", "sandbox_images.agentdojo.toolset:AgentDojoToolset")


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the samples")
    samples = 8 if parser.parse_args().quick else 32
    console = Console(width=140)
    machine.header(console, "Containers: one to an episode, prepared ahead")
    if os.getloadavg()[0] > 2:
        console.print("[yellow]The machine was busy: these figures are worse than it can do.[/yellow]")
    console.print(asyncio.run(asyncio.wait_for(_measure(samples), _LIMIT)))


async def _measure(samples: int) -> Table:
    shell, agentdojo = (build_image(name) for name in ("shell", "agentdojo"))
    table = Table(show_lines=True, caption="Median, 95th percentile.")
    for column in ("measure", "Kumite", "target"):
        table.add_column(column)
    rate = await _rate(shell, samples)
    waits = await _waits(shell, samples, pause=2 / rate)
    table.add_row(
        "wait for a container, creation keeping up",
        median_and_p95(waits),
        verdict(median(waits), WAIT_TARGET, f"≤ {ms(WAIT_TARGET)}"),
    )
    table.add_row("containers made, used and removed, sustained", f"{rate:.1f}/s", "")
    for at_once in AT_ONCE:
        table.add_row(
            f"from request to tool host up, {at_once} at once, engine asked for {at_once}",
            median_and_p95(await _latency(shell, at_once, at_once, max(1, samples // at_once))),
            "",
        )
    table.add_row(
        f"the same, 16 at once, engine asked for {creation.AT_ONCE}",
        median_and_p95(await _latency(shell, 16, creation.AT_ONCE, max(1, samples // 16))),
        "",
    )
    table.add_row(
        f"memory of one of {LIVE} live AgentDojo sessions in a container",
        f"{await _memory(agentdojo) / 2**20:.1f} MiB",
        "",
    )
    return table


def _pool(image: str, spec: ToolsetSpec, ahead: int, recycle: str) -> SandboxPool:
    settings = SandboxSettings.model_validate({"image": image, "recycle": recycle})
    return SandboxPool(spec, settings, Owner("benchmark", uuid.uuid4().hex[:8]), ahead)


async def _waits(image: str, samples: int, pause: float) -> list[float]:
    """Episodes that come at half the rate which creation sustains."""
    pool = _pool(image, _SHELL, ahead=4, recycle="episode")
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


async def _rate(image: str, samples: int) -> float:
    pool = _pool(image, _SHELL, ahead=4, recycle="episode")
    try:
        await pool.prepare()
        began = time.perf_counter()
        for _ in range(samples):
            await pool.release(await pool.acquire(uuid.uuid4().hex))
        return samples / (time.perf_counter() - began)
    finally:
        await pool.close()


async def _latency(image: str, at_once: int, engine_at_once: int, rounds: int) -> list[float]:
    before, creation.AT_ONCE = creation.AT_ONCE, engine_at_once
    try:
        return [seconds for _ in range(rounds) for seconds in await _burst(image, at_once)]
    finally:
        creation.AT_ONCE = before


async def _burst(image: str, at_once: int) -> list[float]:
    pools = [_pool(image, _SHELL, ahead=0, recycle="episode") for _ in range(at_once)]

    async def up(pool: SandboxPool) -> float:
        began = time.perf_counter()
        await pool.prepare()
        return time.perf_counter() - began

    try:
        return await asyncio.gather(*(up(pool) for pool in pools))
    finally:
        await asyncio.gather(*(pool.close() for pool in pools))


async def _memory(image: str) -> float:
    """What the container's memory grows by with each session, in bytes."""
    pool = _pool(image, _AGENTDOJO, ahead=0, recycle="fork")
    task = rows(TaskSelection(suites=["workspace"]))[0]["info"]
    try:
        first = await pool.acquire("first")
        await first.open(task)
        with docker_sdk.engine() as client:
            before = _used(client, first.sandbox.id)
            for number in range(LIVE):
                await (await pool.acquire(f"s{number}")).open(task)
            return (_used(client, first.sandbox.id) - before) / LIVE
    finally:
        await pool.close()


def _used(client: docker.DockerClient, container: str) -> int:
    return int(client.api.stats(container, stream=False)["memory_stats"]["usage"])


if __name__ == "__main__":
    main()
