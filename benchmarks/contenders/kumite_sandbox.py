"""Kumite's sandbox: one warm container, a forked session per episode."""

import asyncio
import time
from typing import Any

from docker import DockerClient

from benchmarks.contenders.docker_sdk import memory_bytes
from workers.sandbox.base import Owner, Sandbox, Session, ToolsetSpec
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings

CALLS = {"get_current_day": "workspace", "get_unread_emails": "workspace", "get_balance": "banking"}
"""Tools without arguments whose round trips are measured, and their suites."""
LIVE = 32
"""Sessions that are open when memory is measured."""


class KumiteSandbox:
    """A Kumite sandbox under the clock.

    Args:
        client: For the container's memory.
        image: The AgentDojo image's tag.
        pairs: Workspace tasks under attack, all different.
        scale: How many samples, as a factor.
    """

    def __init__(self, client: DockerClient, image: str, pairs: list[dict[str, Any]], scale: float) -> None:
        self._client = client
        self._image = image
        self._pairs = pairs
        self._scale = scale
        self._opened = 0

    async def measure(self, at_once: int) -> dict[str, Any]:
        """All measures by name: lists of seconds, and bytes a session."""
        found: dict[str, Any] = {
            "cold": [await self._time_cold_start() for _ in range(self._sample_count(5))]
        }
        sandbox = self._open_sandbox()
        await sandbox.start()
        try:
            found["first open"] = [await self._open_and_close(sandbox, pair) for pair in self._pairs]
            found["open"] = [await self._open_and_close(sandbox, pair) for pair in self._pairs]
            for tool, suite in CALLS.items():
                found[tool] = await self._time_calls(sandbox, suite, tool, self._sample_count(1000))
            found["at once"] = [
                await self._time_sessions_at_once(sandbox, at_once) for _ in range(self._sample_count(10))
            ]
            found["memory"] = await self._measure_session_memory(sandbox)
        finally:
            await sandbox.stop()
        return found

    def _sample_count(self, samples: int) -> int:
        return max(2, int(samples * self._scale))

    def _open_sandbox(self) -> Sandbox:
        toolset = "sandbox_images.agentdojo.toolset:AgentDojoToolset"
        suites = ["workspace", "travel", "banking", "slack"]
        spec = ToolsetSpec("agentdojo", toolset, {"version": "v1.2.2", "suites": suites})
        return DockerSandbox(spec, SandboxSettings(image=self._image), Owner("benchmark", "benchmark"))

    def _open_session(self, sandbox: Sandbox) -> Session:
        self._opened += 1
        return sandbox.session(f"benchmark-{self._opened}")

    async def _time_cold_start(self) -> float:
        sandbox = self._open_sandbox()
        began = time.perf_counter()
        try:
            await sandbox.start()
            return time.perf_counter() - began
        finally:
            await sandbox.stop()

    async def _open_and_close(self, sandbox: Sandbox, task: dict[str, Any]) -> float:
        session = self._open_session(sandbox)
        began = time.perf_counter()
        await session.open(task)
        await session.close()
        return time.perf_counter() - began

    async def _time_calls(self, sandbox: Sandbox, suite: str, tool: str, count: int) -> list[float]:
        session = self._open_session(sandbox)
        await session.open({"suite": suite, "user_task": "user_task_0"})
        seconds: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            result = await session.call(tool, {})
            seconds.append(time.perf_counter() - began)
            if result.error is not None:
                raise RuntimeError(f"{tool} failed: {result.error}")
        await session.close()
        return seconds

    async def _time_sessions_at_once(self, sandbox: Sandbox, count: int) -> float:
        sessions = [self._open_session(sandbox) for _ in range(count)]
        began = time.perf_counter()
        await asyncio.gather(*(s.open(pair) for s, pair in zip(sessions, self._pairs, strict=False)))
        seconds = time.perf_counter() - began
        await asyncio.gather(*(session.close() for session in sessions))
        return seconds

    async def _measure_session_memory(self, sandbox: Sandbox) -> float:
        """Bytes that one live session adds, each having called two tools."""
        before = memory_bytes(self._client, sandbox.id)
        sessions = [self._open_session(sandbox) for _ in range(LIVE)]
        for session, pair in zip(sessions, self._pairs, strict=False):
            await session.open(pair)
            await session.call("get_current_day", {})
            await session.call("get_unread_emails", {})
        after = memory_bytes(self._client, sandbox.id)
        await asyncio.gather(*(session.close() for session in sessions))
        return (after - before) / LIVE
