"""The lock that keeps requests to a replica and a change of its weights apart."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class RequestLock:
    """A lock that any number of requests hold together, or one change of the weights alone.

    vLLM can pause by itself, and yet not say which weights an answer that comes at that moment is of.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._open, self._empty = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._empty.set()
        self._change = asyncio.Lock()

    @asynccontextmanager
    async def request(self) -> AsyncGenerator[None]:
        """Holds the lock as a request: the weights do not change inside."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def change(self) -> AsyncGenerator[None]:
        """Holds the lock as a change: it waits for the requests inside to end, and new ones wait for it."""
        async with self._change:
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()
