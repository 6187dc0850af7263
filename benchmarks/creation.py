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
from typing import Any, cast

import docker
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contenders import docker_sdk, verifiers_docker
from benchmarks.figures import format_ms, format_verdict, median_and_p95
from sandbox_images.build import build_image
from workers.environments.agentdojo.tasks import TaskSelection, make_rows
from workers.sandbox import creation
from workers.sandbox.base import Owner, ToolsetSpec
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings

WAIT_TARGET = 0.05
LIVE = 64
AT_ONCE = (1, 4, 16)
_LIMIT = 900.0
_AHEAD = 4
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
    machine.print_header(console, "Containers: one to an episode, prepared ahead")
    if os.getloadavg()[0] > 2:
        console.print("[yellow]The machine was busy: these figures are worse than it can do.[/yellow]")
    found = asyncio.run(
        asyncio.wait_for(_measure_runtimes(arguments.runtimes or _known_runtimes(), samples), _LIMIT)
    )
    console.print(_make_table(found))


def _known_runtimes() -> list[str]:
    with docker_sdk.connect_engine() as client:
        known = client.info()["Runtimes"]
    return [runtime for runtime in ("runc", "runsc") if runtime in known]


def _make_table(found: dict[str, dict[str, str]]) -> Table:
    table = Table(show_lines=True, caption="Median, 95th percentile. The peer's containers run `sleep`.")
    for column in ("measure", *found):
        table.add_column(column)
    for measure in next(iter(found.values())):
        table.add_row(measure, *(figures.get(measure, "–") for figures in found.values()))
    return table


async def _measure_runtimes(runtimes: list[str], samples: int) -> dict[str, dict[str, str]]:
    """Figures by contender and measure. Starts are taken in turns: the load of the machine may change."""
    shell, agentdojo = build_image("shell"), build_image("agentdojo")
    pools = {runtime: partial(_make_pool, shell, _SHELL, runtime) for runtime in runtimes}
    found = {runtime: await _measure_prepared_ahead(make, samples) for runtime, make in pools.items()}
    peer: dict[str, str] = {}
    for at_once in AT_ONCE:
        rounds, name = max(1, samples // at_once), _STARTS.format(at_once)
        for runtime, make in pools.items():
            found[runtime][name] = median_and_p95(await _measure_latency(make, at_once, at_once, rounds))
        peer[name] = median_and_p95(await verifiers_docker.time_starts(shell, at_once, rounds))
    name = f"the same, {AT_ONCE[-1]} at once, {creation.AT_ONCE} of them asked of the engine"
    for runtime, make in pools.items():
        rounds = max(1, samples // AT_ONCE[-1])
        found[runtime][name] = median_and_p95(
            await _measure_latency(make, AT_ONCE[-1], creation.AT_ONCE, rounds)
        )
        found[runtime] |= await _measure_sessions(
            _make_pool(agentdojo, _AGENTDOJO, runtime, 0, "fork"), samples
        )
    ours = {f"Kumite, {runtime}": figures for runtime, figures in found.items()}
    return {**ours, "verifiers' Docker runtime": peer}


async def _measure_prepared_ahead(make: Callable[..., SandboxPool], samples: int) -> dict[str, str]:
    rate = await _measure_rate(make(_AHEAD), samples)
    waits = await _measure_waits(make(_AHEAD), samples, pause=2 / rate)
    reached = format_verdict(median(waits), WAIT_TARGET, f"≤ {format_ms(WAIT_TARGET)}")
    return {
        "wait for a container, creation keeping up": f"{median_and_p95(waits)}\n{reached}",
        "containers made, used and removed, sustained": f"{rate:.2f}/s",
    }


def _make_pool(
    image: str, spec: ToolsetSpec, runtime: str, ahead: int = 0, recycle: str = "episode"
) -> SandboxPool:
    settings = SandboxSettings.model_validate({"image": image, "recycle": recycle, "runtime": runtime})
    return SandboxPool(spec, settings, Owner("benchmark", uuid.uuid4().hex[:8]), ahead)


async def _measure_waits(pool: SandboxPool, samples: int, pause: float) -> list[float]:
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


async def _measure_rate(pool: SandboxPool, samples: int) -> float:
    try:
        began = time.perf_counter()
        for number in range(2 * _AHEAD + samples):
            if number == 2 * _AHEAD:  # what was prepared before is used up
                began = time.perf_counter()
            await pool.release(await pool.acquire(uuid.uuid4().hex))
        return samples / (time.perf_counter() - began)
    finally:
        await pool.close()


async def _measure_latency(
    make: Callable[[], SandboxPool], at_once: int, engine_at_once: int, rounds: int
) -> list[float]:
    before, creation.AT_ONCE = creation.AT_ONCE, engine_at_once
    try:
        return [seconds for _ in range(rounds) for seconds in await _measure_burst(make, at_once)]
    finally:
        creation.AT_ONCE = before


async def _measure_burst(make: Callable[[], SandboxPool], at_once: int) -> list[float]:
    pools = [make() for _ in range(at_once)]

    async def up(pool: SandboxPool) -> float:
        began = time.perf_counter()
        await pool.prepare()
        return time.perf_counter() - began

    try:
        return await asyncio.gather(*(up(pool) for pool in pools))
    finally:
        await asyncio.gather(*(pool.close() for pool in pools))


async def _measure_sessions(pool: SandboxPool, samples: int) -> dict[str, str]:
    """Forked AgentDojo sessions: time to open and close one, to call a tool, and memory of many."""
    task = make_rows(TaskSelection(suites=["workspace"]))[0]["info"]
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
        with docker_sdk.connect_engine() as client:
            before = _memory_used(client, first.sandbox.id)
            for number in range(LIVE):
                await (await pool.acquire(f"s{number}")).open(task)
            memory = (_memory_used(client, first.sandbox.id) - before) / LIVE
    finally:
        await pool.close()
    return {
        "AgentDojo: container from cold, four suites loaded": format_ms(cold),
        "AgentDojo: forked session, open and close": median_and_p95(opens),
        "AgentDojo: tool call": median_and_p95(calls),
        f"AgentDojo: memory of one of {LIVE} live sessions in a container": (f"{memory / 2**20:.1f} MiB"),
    }


def _memory_used(client: docker.DockerClient, container: str) -> int:
    """The container's memory, in bytes; of its processes where its runtime heeds no control group."""
    stats = cast("dict[str, Any]", client.api.stats(container, stream=False))
    counted = int(stats["memory_stats"].get("usage", 0))
    if counted > _NOTHING:
        return counted
    processes = psutil.process_iter(["cmdline"])
    its = [process for process in processes if container in " ".join(process.info["cmdline"] or [])]
    return sum(int(process.memory_full_info().pss) for process in its)


if __name__ == "__main__":
    main()
