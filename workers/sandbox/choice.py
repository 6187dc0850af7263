"""Sandboxes that an episode takes when it needs them: of the run's image, or of one that its task names."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, field

from sandbox_images import build, bundle_volume, engine
from sandbox_images.host import ImageBuildError, hold_lock
from workers.cancellation import run_to_end
from workers.errors import SandboxError, SandboxStartError
from workers.sandbox.base import Owner, Session, ToolsetSpec
from workers.sandbox.image_pools import ImagePools
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings

_log = logging.getLogger(__name__)
_MOST_POOLS = 8
"""Other images and sizes that sandboxes are kept of: the one that was not asked for longest is let go."""
_AHEAD = 2
"""Sandboxes of another image that are started ahead once it is asked for again and again."""


@dataclass(frozen=True)
class SandboxWish:
    """In what a sandbox is to differ from the run's. None: in nothing."""

    image: str | None = None
    memory_mb: int | None = None
    cpus: float | None = None


class SandboxChoice:
    """A worker's sandboxes, by image and size.

    Args:
        pool: Those of the run's own image.
        spec: What to load in every sandbox.
        settings: How the run's own are made.
        owner: For their labels.
    """

    def __init__(self, pool: ImagePools, spec: ToolsetSpec, settings: SandboxSettings, owner: Owner) -> None:
        self._pool = pool
        self._spec = spec
        self._settings = settings
        self._owner = owner
        self._others: OrderedDict[SandboxWish, SandboxPool] = OrderedDict()
        self._pools: dict[Session, SandboxPool | ImagePools] = {}
        self._gone = 0
        self._pulled: set[str] = set()
        self._pulling = asyncio.Lock()

    @property
    def created(self) -> int:
        """Sandboxes of other images and sizes brought up so far."""
        return self._gone + sum(pool.created for pool in self._others.values())

    async def acquire(self, name: str, wish: SandboxWish) -> Session:
        """A session, not opened yet.

        Raises:
            SandboxStartError: No such sandbox can be brought up.
        """
        pool = self._pool if wish == SandboxWish() else await self._find_pool(wish)
        session = await pool.acquire(name)
        self._pools[session] = pool
        return session

    async def release(self, session: Session) -> None:
        """Closes a session, and its sandbox where no other may use it."""
        await self._pools.pop(session).release(session)

    async def close(self) -> None:
        """Ends the sandboxes of other images and sizes."""
        others, self._others = list(self._others.values()), OrderedDict[SandboxWish, SandboxPool]()
        for pool in others:
            await pool.close()

    async def _find_pool(self, wish: SandboxWish) -> SandboxPool:
        given = {"image": wish.image, "memory_mb": wish.memory_mb, "cpus": wish.cpus}
        update = {name: value for name, value in given.items() if value is not None}
        if wish.image is not None and self._settings.backend == "docker":
            async with self._pulling:
                await self._ensure_image(wish.image)
        pool = self._others.get(wish)
        if pool is None:
            settings = self._settings.model_copy(update=update)
            pool = self._others[wish] = SandboxPool(self._spec, settings, self._owner, ahead=0)
            await self._let_go()
        elif next(reversed(self._others)) == wish:
            pool.start_ahead(_AHEAD)
        else:
            self._others.move_to_end(wish)
        for other, idle in self._others.items():
            if other != wish:
                idle.start_ahead(0)
        return pool

    async def _let_go(self) -> None:
        """Ends the pools that were not asked for longest and have no session."""
        busy = set(self._pools.values())
        for wish, pool in list(self._others.items())[:-_MOST_POOLS]:
            if pool not in busy:
                del self._others[wish]
                self._gone += pool.created
                await run_to_end(pool.close())

    async def _ensure_image(self, image: str) -> None:
        """Pulls an image that the engine does not have, and makes the tool host for one that has none.

        Raises:
            SandboxStartError: It can't be had.
        """
        if image not in self._pulled:
            try:
                await asyncio.to_thread(_pull, image, self._spec.image)
            except ImageBuildError as error:
                raise SandboxStartError(str(error)) from error
            self._pulled.add(image)


def _pull(image: str, programs_of: str) -> None:
    with hold_lock(f"pull-{image.replace('/', '_')}"):
        if not build.image_exists(image):
            problem = engine.pull_image(image)
            if problem is not None:
                raise SandboxStartError(
                    f"the task's image: this node's engine has no {image}, and it can't be pulled: "
                    f"{problem}; build it there, or `docker pull {image}` it"
                )
    if not build.has_tool_host(image):
        bundle_volume.ensure_volume()
        bundle_volume.ensure_programs_volume(programs_of)


@dataclass
class EpisodeSandboxes:
    """What one episode takes."""

    choice: SandboxChoice
    name: str
    """The episode's, which sessions are named by."""
    sessions_are_root: bool
    """Whether sessions are root of their container."""
    taken: list[Session] = field(default_factory=list[Session])
    """All that it has taken, the latest last."""
    _held: set[Session] = field(default_factory=set[Session])

    async def acquire(self, wish: SandboxWish) -> Session:
        """See `SandboxChoice.acquire`."""
        session = await self.choice.acquire(f"{self.name}-{len(self.taken)}", wish)
        self.taken.append(session)
        self._held.add(session)
        return session

    async def release(self, session: Session) -> None:
        """Closes a session. What goes wrong is only logged: the episode has come to its end."""
        if session in self._held:
            self._held.discard(session)
            try:
                await self.choice.release(session)
            except SandboxError as error:
                _log.warning("a session of episode %s could not be closed: %s", self.name, error)

    async def release_all(self) -> None:
        """Closes what is still held."""
        for session in list(self._held):
            await self.release(session)
