"""Owns a sandbox until it is killed: prints the container's id, then plays dead."""

import asyncio
import sys

from tests.helpers.sandboxes import dummy, opened, said
from workers.sandbox.base import Owner
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings


async def own(image: str, worker: str, how: str) -> None:
    sandbox = DockerSandbox(dummy(), SandboxSettings(image=image), Owner("test-run", worker))
    await sandbox.start()
    session = await opened(sandbox)
    await said(session, "daemon", count=3)
    print(sandbox.id, flush=True)
    if how == "exits":
        return
    await session.call("sleep", {"seconds": 3600}, timeout=3600)


asyncio.run(own(*sys.argv[1:]))
