"""Sandboxes that an environment takes for an episode when it needs them."""

import logging
from dataclasses import dataclass, field

from workers.errors import SandboxError
from workers.sandbox.base import Session
from workers.sandbox.pools import SandboxPools, SandboxWish

_log = logging.getLogger(__name__)


@dataclass
class EpisodeSandboxes:
    """What one episode takes."""

    pools: SandboxPools
    name: str
    """The episode's, which sessions are named by."""
    sessions_are_root: bool
    """Whether sessions are root of their container."""
    taken: list[Session] = field(default_factory=list[Session])
    """All that it has taken, the latest last."""
    _held: set[Session] = field(default_factory=set[Session])

    async def acquire(self, wish: SandboxWish) -> Session:
        """See `SandboxPools.acquire`.

        Sessions after each other have one name, and so their folders the same paths: files may be carried.
        """
        is_alone = not any(session.name == self.name for session in self._held)
        name = self.name if is_alone else f"{self.name}-{len(self.taken)}"
        session = await self.pools.acquire(name, wish)
        self.taken.append(session)
        self._held.add(session)
        return session

    async def release(self, session: Session) -> None:
        """Closes a session. What goes wrong is only logged: the episode has come to its end."""
        if session in self._held:
            self._held.discard(session)
            try:
                await self.pools.release(session)
            except SandboxError as error:
                _log.warning("a session of episode %s could not be closed: %s", self.name, error)

    async def release_all(self) -> None:
        """Closes what is still held."""
        for session in list(self._held):
            await self.release(session)
