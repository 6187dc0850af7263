"""Sandboxes of one worker: which one an episode's session lives in, and when one is replaced."""

import asyncio
import logging
from collections import deque

from workers.cancellation import cancel_and_wait, run_to_end
from workers.errors import EndCause, SandboxStartError, SessionLost
from workers.sandbox.base import Owner, Sandbox, Session, ToolsetSpec
from workers.sandbox.capacity import most_sessions
from workers.sandbox.docker import DockerSandbox
from workers.sandbox.process import ProcessSandbox
from workers.settings import SandboxSettings

_log = logging.getLogger(__name__)
_BACKENDS: dict[str, type[Sandbox]] = {"docker": DockerSandbox, "process": ProcessSandbox}
_STARTS_AT_ONCE = 4
"""Sandboxes of one worker that come up at the same time: each keeps a core and the engine busy meanwhile."""
_STARVED: frozenset[EndCause] = frozenset({"memory", "capacity"})
"""Losses that condemn a sandbox at once: what took its memory or its places may have left it without them."""
_LOST_IN_A_ROW = 4
"""Sessions lost one after the other, with none between them that came to its end, that condemn a sandbox."""


class SandboxPool:
    """Gives each episode a session, in a sandbox that is alive.

    With `recycle: fork` all sessions share one sandbox, until it dies or has served its share, and one
    that would be too many for it waits; with `recycle: episode` each has one to itself, and the next ones
    are started ahead.

    Args:
        spec: What to load in every sandbox.
        settings: How sandboxes are made.
        owner: For their labels.
        ahead: With `recycle: episode`, how many to have started before they are asked for.
    """

    def __init__(self, spec: ToolsetSpec, settings: SandboxSettings, owner: Owner, ahead: int = 2) -> None:
        self._spec = spec
        self._settings = settings
        self._owner = owner
        self._ahead = ahead
        self._recycle = self._wanted = "episode" if settings.user == "root" else settings.recycle
        self._current: Sandbox | None = None
        self._choosing = asyncio.Lock()
        self._most = most_sessions(settings)
        self._places = None if self._most is None else asyncio.Semaphore(self._most)
        self._placed: set[Session] = set()
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._ready: deque[asyncio.Future[Sandbox]] = deque()
        self._up: set[Sandbox] = set()
        self._retired: set[asyncio.Task[None]] = set()
        self._closed = False
        self.created = 0
        """Sandboxes brought up so far."""

    @property
    def gives_each_its_own(self) -> bool:
        """Whether each session has a sandbox to itself, as far as is known by now."""
        return self._recycle == "episode"

    @property
    def places(self) -> int | None:
        """Most sessions that can be had at a time; None: any number."""
        return None if self._recycle == "episode" else self._most

    def start_ahead(self, count: int) -> None:
        """Changes how many are started before they are asked for; those that are too many are ended."""
        self._ahead = count
        while len(self._ready) > count:
            ready = self._ready.pop()
            ready.add_done_callback(self._retire_unused)

    async def prepare(self) -> None:
        """Has a sandbox up before the first episode asks for one.

        Raises:
            SandboxStartError: None can be brought up.
        """
        if self._recycle == "episode" or await self._shared() is None:
            self._put_ready(await self._fresh())

    async def acquire(self, name: str) -> Session:
        """A session, not opened yet, in a sandbox that is up and has room for it.

        Raises:
            SandboxStartError: No sandbox can be brought up.
        """
        shared = None if self._recycle == "episode" else await self._place(name)
        return shared or (await self._fresh()).session(name)

    async def release(self, session: Session) -> None:
        """Closes a session, and its sandbox where no other may use it."""
        try:
            await session.close()
        finally:
            if session in self._placed:
                self._placed.discard(session)
                self._leave()
            sandbox = session.sandbox
            self._count_losses(session)
            if self._recycle == "episode" or (sandbox is not self._current and not sandbox.sessions):
                self._retire(sandbox)

    def _count_losses(self, session: Session) -> None:
        """Has a sandbox replaced that loses session after session: it lacks what they don't give back."""
        sandbox = session.sandbox
        sandbox.lost = sandbox.lost + 1 if type(session.failure) is SessionLost else 0
        if sandbox is not self._current:
            return
        cause = session.failure and session.failure.cause
        if cause in _STARVED:
            _log.warning("sandbox %s ran out of %s; replacing it", sandbox.id, cause)
            self._current = None
        elif sandbox.lost >= _LOST_IN_A_ROW:
            _log.warning("sandbox %s lost %d sessions in a row; replacing it", sandbox.id, sandbox.lost)
            self._current = None

    async def close(self) -> None:
        """Ends every sandbox; returns when nothing of them is left."""
        self._closed = True
        await run_to_end(self._end())

    async def _end(self) -> None:
        self._leave()  # whoever waits for a place is told, and passes it on to the next
        while self._ready:
            starting = self._ready.popleft()
            await cancel_and_wait([starting])
            _has_failed(starting)
        async with self._choosing:  # whoever brings one up sees that it is too late, and ends it
            self._current = None
        for sandbox in list(self._up):
            self._retire(sandbox)
        if self._retired:
            await asyncio.wait(self._retired)

    async def _place(self, name: str) -> Session | None:
        """A session in the sandbox that all share, when there is room; None if it turns out not to be one."""
        if self._places is not None:
            await self._places.acquire()
        session = None
        try:
            sandbox = await self._shared()
            if sandbox is not None:
                session = sandbox.session(name)
                self._placed.add(session)
        finally:
            if session is None:
                self._leave()
        return session

    def _leave(self) -> None:
        if self._places is not None:
            self._places.release()

    async def _shared(self) -> Sandbox | None:
        """The one that all sessions share; None if it turns out that they may not."""
        async with self._choosing:
            if self._closed:
                raise SandboxStartError("the worker is going down")
            if self._recycle == "episode":
                return None
            current, limit = self._current, self._settings.max_episodes_per_container
            if current is not None and (not current.alive or (limit and current.served >= limit)):
                self._current = None
                if not current.alive or not current.sessions:
                    self._retire(current)
            if self._current is None:
                started = await self._start()
                if self._recycle == "episode":  # as its toolset has just told
                    self._put_ready(started)
                    return None
                self._current = started
            return self._current

    async def _fresh(self) -> Sandbox:
        """One nobody has used, from those started ahead; as many as are taken are started again."""
        while not self._closed:
            # One that failed before anybody asked may have failed for what is over by now.
            self._ready = deque(ready for ready in self._ready if not _has_failed(ready))
            while len(self._ready) <= self._ahead:
                self._ready.append(asyncio.create_task(self._start()))
            starting = self._ready.popleft()
            try:
                sandbox = await starting
            except asyncio.CancelledError:
                starting.add_done_callback(self._retire_unused)
                raise
            if sandbox.alive:
                return sandbox
            self._retire(sandbox)
        raise SandboxStartError("the worker is going down")

    async def _start(self) -> Sandbox:
        sandbox = _BACKENDS[self._settings.backend](self._spec, self._settings, self._owner)
        async with self._starts:
            hello = await sandbox.start()
        self.created += 1
        wanted = self._wanted
        if self._closed:
            await run_to_end(sandbox.stop())
            raise SandboxStartError("the worker is going down")
        if wanted == "fork" and hello.weakest_recycle == "episode" and not self._settings.unsafe:
            await run_to_end(sandbox.stop())
            raise SandboxStartError(
                "sandbox.recycle is `fork`, but this toolset asks for `episode` at least; set "
                "sandbox.unsafe to insist"
            )
        self._recycle = wanted or hello.weakest_recycle
        self._up.add(sandbox)
        return sandbox

    def _put_ready(self, sandbox: Sandbox) -> None:
        ready: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        ready.set_result(sandbox)
        self._ready.appendleft(ready)

    def _retire_unused(self, started: "asyncio.Future[Sandbox]") -> None:
        """For one that came up just when whoever had asked for it was cancelled."""
        if not started.cancelled() and started.exception() is None:
            self._retire(started.result())

    def _retire(self, sandbox: Sandbox) -> None:
        """Stops a sandbox in the background; `close` waits for it."""
        if sandbox in self._up:
            self._up.discard(sandbox)
            task = asyncio.create_task(sandbox.stop())
            self._retired.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._retired.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("a sandbox could not be ended: %s", str(error))


def _has_failed(start: "asyncio.Future[Sandbox]") -> bool:
    return start.done() and not start.cancelled() and start.exception() is not None
