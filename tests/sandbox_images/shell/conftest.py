from collections.abc import AsyncIterator

import pytest_asyncio

from tests.helpers.sandboxes import OWNER, process_settings
from tests.helpers.shell import shell_session, shell_toolset
from workers.sandbox.base import Session
from workers.sandbox.process import ProcessSandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shells() -> AsyncIterator[ProcessSandbox]:
    """A tool host with the shell toolset."""
    sandbox = ProcessSandbox(shell_toolset(), process_settings(unsafe=True), OWNER)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def session(shells: ProcessSandbox) -> AsyncIterator[Session]:
    """An empty workspace."""
    session = await shell_session(shells)
    yield session
    await session.close()
