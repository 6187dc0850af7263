"""New full weights for the replicas of a deployment, one after the other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from workers.cancellation import run_to_end


async def roll_out(
    replicas: Sequence[tuple[str, int]],
    load: Callable[[str, int], Awaitable[str | None]],
    version: int,
) -> str | None:
    """Brings all replicas to a version, or none.

    Args:
        replicas: Their names, and the versions that they have.
        load: Has a replica take a version; gives the reason if it does not.
        version: The version to bring them to.

    Returns:
        Why a replica refuses it, in which case those before it have theirs again; None if none does.

    Raises:
        Exception: What `load` raises; here, too, those before have theirs again.
        asyncio.CancelledError: The caller was cancelled; so has the one whose turn it was.
    """
    done: list[tuple[str, int]] = []

    async def put_back() -> None:
        for replica, before in done:
            await load(replica, before)

    try:
        for replica, before in replicas:
            try:
                refusal = await load(replica, version)
            except asyncio.CancelledError:
                done.append((replica, before))  # which may have taken it all the same
                raise
            if refusal is not None:
                return refusal
            done.append((replica, before))
        done = []
        return None
    finally:
        await run_to_end(put_back())
