"""How many containers are being created on a node at once, by all its workers together.

An engine that is asked for too many at once gets slower for everyone, and at last stops answering.
"""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

AT_ONCE = 4
"""Creations at a time. `benchmarks/creation.py` shows the latency at 1, 4 and 16."""
_LOOK_AGAIN = 0.02


@asynccontextmanager
async def creation_slot() -> AsyncGenerator[None]:
    """Waits for a place among the node's creations, and holds it while the block lasts.

    A place is a file lock: the kernel gives it back when a worker dies.
    """
    folder = Path(tempfile.gettempdir()) / f"kumite-creations-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while (held := _take(folder)) is None:  # noqa: ASYNC110 - a file lock has no event to wait for
        await asyncio.sleep(_LOOK_AGAIN)
    try:
        yield
    finally:
        os.close(held)


def _take(folder: Path) -> int | None:
    for place in range(AT_ONCE):
        descriptor = os.open(folder / f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            os.close(descriptor)
    return None
