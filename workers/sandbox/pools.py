"""The sandboxes of one worker: of the run's image, and of other images and sizes that tasks name."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from sandbox_images import build, bundle_volume, engine
from sandbox_images.host import ImageBuildError, hold_lock
from workers.cancellation import run_to_end
from workers.errors import SandboxStartError
from workers.sandbox.base import Owner, Session
from workers.sandbox.pool import SandboxPool
from workers.sandbox.toolset_spec import ToolsetSpec
from workers.settings import SandboxSettings

_ROW = 3
"""Requests in a row for one other image and size after which its sandboxes are started ahead."""
_AHEAD = 2
"""How many are."""


@dataclass(frozen=True)
class SandboxWish:
    """In what a sandbox is to differ from the run's. None: in nothing."""

    image: str | None = None
    memory_mb: int | None = None
    cpus: float | None = None


_USUAL = SandboxWish()


class SandboxPools:
    """Gives each episode a session in a sandbox of the image and size that its task asks for.

    The run's own sandboxes have a pool that lasts. The pool of another image or size is there as long as
    sessions are in it, or until something else is asked for once its sandboxes are started ahead.

    Args:
        spec: What to load in every sandbox.
        settings: How the run's own are made.
        owner: For their labels.
        ahead: See `SandboxPool`.
    """

    def __init__(self, spec: ToolsetSpec, settings: SandboxSettings, owner: Owner, ahead: int = 2) -> None:
        self._spec = spec
        self._settings = settings
        self._owner = owner
        self._usual = SandboxPool(spec, settings, owner, ahead)
        self._others: OrderedDict[SandboxWish, SandboxPool] = OrderedDict()
        """Pools of other images and sizes, the one that was asked for last at the end."""
        self._row = 0
        """Requests in a row for the last one."""
        self._users: dict[SandboxPool, int] = {}
        """How many sessions each of those has or is about to have; one that is being closed is here, too."""
        self._pool_of: dict[Session, SandboxPool] = {}
        self._created_by_closed = 0
        self._pulled: set[str] = set()
        self._pulling = asyncio.Lock()

    @property
    def gives_each_its_own(self) -> bool:
        """Whether each session has a sandbox to itself, as far as is known by now."""
        return all(pool.gives_each_its_own for pool in self._pools)

    @property
    def places(self) -> int | None:
        """Most sessions of one image that can be had at a time; None: any number."""
        return self._usual.places

    @property
    def created(self) -> int:
        """Sandboxes brought up so far."""
        return self._created_by_closed + sum(pool.created for pool in self._pools)

    @property
    def _pools(self) -> list[SandboxPool]:
        return [self._usual, *self._users]

    async def prepare(self) -> None:
        """Has a sandbox of the run's image up before the first episode asks for one.

        Raises:
            SandboxStartError: None can be brought up.
        """
        await self._usual.prepare()

    async def acquire(self, name: str, wish: SandboxWish = _USUAL) -> Session:
        """A session, not opened yet.

        Args:
            name: See `SandboxPool.acquire`.
            wish: What its sandbox is to be like.

        Raises:
            SandboxStartError: No such sandbox can be brought up.
        """
        if wish.image == self._settings.image:
            wish = SandboxWish(memory_mb=wish.memory_mb, cpus=wish.cpus)
        if wish == _USUAL:
            return await self._usual.acquire(name)
        if wish.image is not None:
            await self._ensure_image(wish.image)
        pool = self._find_pool(wish)
        self._users[pool] = self._users.get(pool, 0) + 1
        try:
            session = await pool.acquire(name)
        except BaseException:
            await run_to_end(self._leave(pool))
            raise
        self._pool_of[session] = pool
        return session

    async def release(self, session: Session) -> None:
        """Closes a session, and its sandbox where no other may use it."""
        pool = self._pool_of.pop(session, None)
        if pool is None:
            await self._usual.release(session)
            return
        try:
            await pool.release(session)
        finally:
            await self._leave(pool)

    async def close(self) -> None:
        """Ends every sandbox; returns when nothing of them is left."""
        for pool in self._pools:
            await pool.close()

    def _find_pool(self, wish: SandboxWish) -> SandboxPool:
        """The pool for this wish; that of the wish before is no longer started ahead."""
        is_last = next(reversed(self._others), None) == wish
        self._row = self._row + 1 if is_last else 1
        if not is_last and self._others:
            next(reversed(self._others.values())).start_ahead(0)
        pool = self._others.get(wish)
        if pool is None:
            given = {"image": wish.image, "memory_mb": wish.memory_mb, "cpus": wish.cpus}
            update = {name: value for name, value in given.items() if value is not None}
            settings = self._settings.model_copy(update=update)
            pool = self._others[wish] = SandboxPool(self._spec, settings, self._owner, ahead=0)
        self._others.move_to_end(wish)
        if self._row >= _ROW:
            pool.start_ahead(_AHEAD)
        return pool

    async def _leave(self, pool: SandboxPool) -> None:
        """Ends the pools that nobody uses, but for one whose sandboxes are started ahead."""
        self._users[pool] -= 1
        kept = next(reversed(self._others.values()), None) if self._row >= _ROW else None
        idle = [wish for wish, other in self._others.items() if other is not kept and not self._users[other]]
        for unused in [self._others.pop(wish) for wish in idle]:
            try:
                await unused.close()
            finally:
                del self._users[unused]
                self._created_by_closed += unused.created

    async def _ensure_image(self, image: str) -> None:
        """Pulls an image that the engine does not have, and makes the tool host for one that has none.

        Raises:
            SandboxStartError: It can't be had.
        """
        if self._settings.backend == "process":
            raise SandboxStartError(
                f"the task names the image {image}, and sandbox.backend `process` has no images; use `docker`"
            )
        async with self._pulling:
            if image in self._pulled:
                return
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
