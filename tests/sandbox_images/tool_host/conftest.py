from collections.abc import AsyncIterator

import pytest_asyncio

from tests.helpers.sandboxes import OWNER, dummy, process_settings
from workers.sandbox.process import ProcessSandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandboxes() -> AsyncIterator[list[ProcessSandbox]]:
    started: list[ProcessSandbox] = []
    yield started
    for sandbox in started:
        await sandbox.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(sandboxes: list[ProcessSandbox]) -> AsyncIterator[ProcessSandbox]:
    """The module's tool host with the dummy toolset; another one where a test has brought it down."""
    if not sandboxes or not sandboxes[-1].alive:
        sandboxes.append(ProcessSandbox(dummy(), process_settings(), OWNER))
        await sandboxes[-1].start()
    sandbox = sandboxes[-1]
    yield sandbox
    for name in list(sandbox.sessions):
        sandbox.sessions.discard(name)
        if sandbox.alive:
            await sandbox.request("close", 10, session=name)
