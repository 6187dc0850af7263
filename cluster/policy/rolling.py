"""New full weights for the replicas of a deployment, one after the other."""

from collections.abc import Awaitable, Callable, Sequence


async def roll(
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
    """
    done: list[tuple[str, int]] = []
    try:
        for replica, before in replicas:
            if (refusal := await load(replica, version)) is not None:
                return refusal
            done.append((replica, before))
        done = []
        return None
    finally:
        for replica, before in done:
            await load(replica, before)
