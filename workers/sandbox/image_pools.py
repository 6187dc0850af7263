"""The sandboxes of one worker where tasks name images of their own: a pool for each image."""

from workers.cancellation import run_to_end
from workers.errors import SandboxStartError
from workers.sandbox.base import Owner, Session
from workers.sandbox.pool import SandboxPool
from workers.sandbox.toolset_spec import ToolsetSpec
from workers.settings import SandboxSettings


class ImagePools:
    """Gives each episode a session in a sandbox of the image that its task asks for.

    The run's own image has a pool that lasts. The pool of a task's image is there as long as sessions are in
    it: what is played of one task at the same time shares it, and nothing is started ahead.

    Args:
        spec: What to load in every sandbox.
        settings: How sandboxes are made.
        owner: For their labels.
        ahead: See `SandboxPool`.
    """

    def __init__(self, spec: ToolsetSpec, settings: SandboxSettings, owner: Owner, ahead: int = 2) -> None:
        self._spec = spec
        self._settings = settings
        self._owner = owner
        self._usual = SandboxPool(spec, settings, owner, ahead)
        self._of_tasks: dict[str, SandboxPool] = {}
        self._users: dict[SandboxPool, int] = {}
        """Pools of tasks' images, and how many sessions each has or is about to have."""
        self._pool_of: dict[Session, SandboxPool] = {}
        self._created_by_closed = 0

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

    async def acquire(self, name: str, image: str | None = None) -> Session:
        """A session, not opened yet.

        Args:
            name: See `SandboxPool.acquire`.
            image: The image that the task names. None: the run's.

        Raises:
            SandboxStartError: No sandbox can be brought up.
        """
        if image is None or image == self._settings.image:
            return await self._usual.acquire(name)
        if self._settings.backend == "process":
            raise SandboxStartError(
                f"the task names the image {image}, and sandbox.backend `process` has no images; use `docker`"
            )
        pool = self._of_tasks.get(image)
        if pool is None:
            settings = self._settings.model_copy(update={"image": image})
            pool = self._of_tasks[image] = SandboxPool(self._spec, settings, self._owner, ahead=0)
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

    async def _leave(self, pool: SandboxPool) -> None:
        """Ends a task's pool when nobody uses it."""
        self._users[pool] -= 1
        if self._users[pool] == 0:
            self._of_tasks = {image: other for image, other in self._of_tasks.items() if other is not pool}
            try:
                await pool.close()
            finally:
                del self._users[pool]
                self._created_by_closed += pool.created

    async def close(self) -> None:
        """Ends every sandbox; returns when nothing of them is left."""
        for pool in self._pools:
            await pool.close()
