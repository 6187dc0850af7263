"""The full weights that a replica has, how it comes by those in use, and which weights act for a request."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import HTTPException

from cluster.policy.weights.gate import RequestLock
from cluster.policy.weights.versions import VersionFolder
from workers.cancellation import run_to_end


class FullWeights:
    """A replica's full weights: those of its model, or of the checkpoint that has taken their place.

    Args:
        versions: The deployment's.
        reload: Has the engine take the full weights of a version; no request is inside meanwhile.
    """

    def __init__(self, versions: VersionFolder, reload: Callable[[int], Awaitable[None]]) -> None:
        self.version = 0
        """Their version."""
        self.spoilt = False
        """Whether a change has left none that can serve."""
        self._versions = versions
        self._reload = reload
        self._seen = 0
        self._oldest = 0
        self._inside = Counter[int]()
        self._gate = RequestLock()
        self._loading = asyncio.Lock()

    async def load(self, version: int) -> str | None:
        """Takes the full weights of a version, once the requests inside have ended; new ones wait.

        Returns:
            Why the engine does not load them, in which case it has those before again; None if it does.

        Raises:
            Exception: It has neither; the replica must go.
        """
        async with self._loading:
            return await self._load_version(version)

    async def catch_up(self, asked: int | None = None) -> None:
        """Loads the full weights in use, where this replica has others: it came up since, or meanwhile.

        Args:
            asked: The version that a request asks for; if it is known here, there is nothing to do. None:
                looks anyhow.

        Raises:
            RuntimeError: They do not load.
        """
        if asked is not None and asked <= max(self._seen, self.version):
            return
        async with self._loading:  # of many requests that come at once, the first one has it loaded
            current = self._versions.current
            if current.base > self.version and (refusal := await self._load_version(current.base)):
                raise RuntimeError(f"version {current.base} is in use, and does not load: {refusal}")
            self._seen = max(self._seen, current.version)
            self._oldest = max(self._oldest, current.oldest)

    def retire(self, oldest: int) -> list[int]:
        """Takes no more requests for adapters older than this.

        Returns:
            Those that a request is still answered by.
        """
        self._oldest = max(self._oldest, oldest)
        self._inside = +self._inside  # those with a count
        return sorted(version for version in self._inside if version < oldest)

    def check_kept(self, asked: int) -> None:
        """Sees whether an adapter is still served.

        Raises:
            HTTPException: 410, it is not.
        """
        if asked < self._oldest:
            raise HTTPException(410, f"version {asked} has gone; the oldest that is served is {self._oldest}")

    @asynccontextmanager
    async def acting(self, asked: int | None) -> AsyncGenerator[int]:
        """Holds the version that acts for a request: the adapter that it asks for, or these weights.

        Inside, they stay.

        Raises:
            HTTPException: 503, the version is a checkpoint that this replica is still to be given; 410, it is
                an adapter that is served no more.
            RuntimeError: There are no weights.
        """
        await self.catch_up(asked)
        async with self._gate.request():
            if self.spoilt:
                raise RuntimeError("this replica has lost its weights")
            if asked is None or asked <= self.version:
                yield self.version
                return
            if asked > self._seen and self._versions.checkpoint(asked) is not None:
                raise HTTPException(503, f"version {asked} is not on this replica yet")
            self.check_kept(asked)
            self._inside[asked] += 1
            try:
                yield asked
            finally:
                self._inside[asked] -= 1

    async def _load_version(self, version: int) -> str | None:
        if version:
            try:  # before requests have to wait
                await asyncio.to_thread(self._versions.check_copy, version)
            except ValueError as error:
                return str(error)
        async with self._gate.change():
            return await run_to_end(self._exchange_weights(version))

    async def _exchange_weights(self, version: int) -> str | None:
        """To be done to its end: one that was broken off would leave weights that nobody can name."""
        try:
            await self._reload(version)
        except Exception as error:  # noqa: BLE001 - whatever it was, the weights before are wanted back
            self.spoilt = True
            await self._reload(self.version)
            self.spoilt = False
            return f"{type(error).__name__}: {error}"
        self.version = version
        return None
