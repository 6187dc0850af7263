"""verifiers' own Docker runtime, by its public interface. Its containers have no AgentDojo set up in them."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from verifiers.v1.runtimes import DockerConfig, Runtime, make_runtime

from benchmarks.contenders.docker_sdk import COMMANDS

TIMEOUT = 120.0
"""Seconds for each of its operations."""


async def measure(image: str, at_once: int, scale: float) -> dict[str, Any]:
    """All measures by name: lists of seconds."""
    found: dict[str, Any] = {"open": [await _start_and_stop(image) for _ in range(max(3, int(20 * scale)))]}
    async with _started_runtime(image) as runtime:
        for name, command in COMMANDS.items():
            found[name] = [await _run_in_runtime(runtime, command) for _ in range(max(3, int(50 * scale)))]
    found["at once"] = [await _seconds_until_all_started(image, at_once)]
    return found


@asynccontextmanager
async def _started_runtime(image: str) -> AsyncGenerator[Runtime]:
    """A started runtime, stopped at the end."""
    runtime = make_runtime(DockerConfig(image=image, workdir="/tmp"))
    try:
        async with asyncio.timeout(TIMEOUT):
            await runtime.start()
        yield runtime
    finally:
        await runtime.stop()


async def _start_and_stop(image: str) -> float:
    began = time.perf_counter()
    async with _started_runtime(image):
        pass
    return time.perf_counter() - began


async def _seconds_until_all_started(image: str, count: int) -> float:
    """Seconds until the last of so many has started."""
    async with AsyncExitStack() as stack:
        began = time.perf_counter()
        await asyncio.gather(*(stack.enter_async_context(_started_runtime(image)) for _ in range(count)))
        return time.perf_counter() - began


async def time_starts(image: str, count: int, rounds: int) -> list[float]:
    """Seconds that each of so many takes to start when all are asked for at once."""
    seconds: list[float] = []
    for _ in range(rounds):
        async with AsyncExitStack() as stack:

            async def up(stack: AsyncExitStack = stack) -> None:
                began = time.perf_counter()
                await stack.enter_async_context(_started_runtime(image))
                seconds.append(time.perf_counter() - began)

            await asyncio.gather(*(up() for _ in range(count)))
    return seconds


async def _run_in_runtime(runtime: Runtime, command: list[str]) -> float:
    began = time.perf_counter()
    async with asyncio.timeout(TIMEOUT):
        result = await runtime.run(command, {})
    seconds = time.perf_counter() - began
    if result.exit_code != 0:
        raise RuntimeError(f"the peer's {command} failed: {result.stderr}")
    return seconds
