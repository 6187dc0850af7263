"""Sandboxes around the dummy toolset, and what tests ask of them."""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.program_forks import fork_programs
from workers.sandbox import process
from workers.sandbox.base import FIXED_VARIABLES, Opened, Owner, Session, ToolsetSpec
from workers.sandbox.process import ProcessSandbox
from workers.settings import SandboxSettings

OWNER = Owner("test-run", "test-worker")
_numbers = itertools.count()
LONG = 240.0
"""Seconds after which something that should happen soon counts as not happening."""


def dummy(**config: Any) -> ToolsetSpec:
    return ToolsetSpec("kumite-test-dummy", "tests.helpers.dummy_toolset:DummyToolset", config)


def process_settings(**settings: Any) -> SandboxSettings:
    return SandboxSettings(backend="process", **settings)


@asynccontextmanager
async def process_sandbox(
    spec: ToolsetSpec | None = None, settings: SandboxSettings | None = None
) -> AsyncIterator[ProcessSandbox]:
    sandbox = ProcessSandbox(spec or dummy(), settings or process_settings(), OWNER)
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.stop()


@contextmanager
def forked_tool_hosts(modules: Sequence[str]) -> Iterator[None]:
    """Has tool hosts of the backend `process` be forks of a process that has imported these modules."""
    variables = {**os.environ, **FIXED_VARIABLES, "PYTHONPATH": str(Path(__file__).parents[2])}
    forks = fork_programs(sys.executable, ["sandbox_images.tool_host.server", *modules], variables)
    with forks as python, pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_TOOL_HOST", [*python, *process._TOOL_HOST[1:]])
        yield


async def opened(sandbox: Any, name: str | None = None, **task: Any) -> Session:
    session = sandbox.session(name or f"s{next(_numbers)}")
    await session.open(task)
    return session


async def said(session: Session, tool: str, timeout: float | None = None, **arguments: Any) -> str:
    """What a tool answered, which must not be an error."""
    result = await session.call(tool, arguments, timeout)
    assert result.error is None, result.error
    return result.content


async def eventually(claim: Callable[[], Any], within: float = LONG) -> None:
    """Waits until a claim holds; how soon is not the test's business."""
    deadline = time.monotonic() + within
    while not claim():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.add(int(entry))
            except OSError:
                continue
    return found


__all__ = [
    "LONG",
    "OWNER",
    "Opened",
    "children",
    "dummy",
    "eventually",
    "is_alive",
    "opened",
    "process_sandbox",
    "process_settings",
    "said",
]
