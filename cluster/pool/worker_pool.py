"""The rollout workers of a run: as many as the backlog asks for, given back when idle, replaced when lost."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from cluster.config import WorkersConfig
from cluster.errors import RunError
from cluster.policy.vllm.engine_metrics import EngineMetrics
from cluster.pool.headroom import Headroom
from cluster.pool.ray_worker import PlayFailed, ResultLost, Worker, WorkerDied, WorkerFailed
from workers.cancellation import run_to_end
from workers.records import EpisodeResult, EpisodeSpec

_log = logging.getLogger(__name__)
_SAY_EVERY = 10.0
"""Seconds between two words on what a run's first worker is waiting for."""
_FAILURES = 3
"""Workers that fail to come up, one attempt after the other, before a run without any gives up."""
_REMIND_AFTER = 60.0
"""Seconds between two warnings that all workers are lost and none has come up."""
_LONGEST_PAUSE = 60.0
"""Seconds before the next attempt at a worker after several have failed to come up."""


@dataclass(eq=False)
class _Member:
    """A worker that is up."""

    worker: Worker
    free: int
    idle_since: float = field(default_factory=time.monotonic)
    gone: bool = False


@dataclass(eq=False)
class Seat:
    """Room for one unit on a worker."""

    member: _Member
    places: int
    left: bool = False


@dataclass(frozen=True)
class PoolState:
    """How the pool is doing."""

    up: int
    """Workers that can play."""
    starting: int
    """Workers that are loaded, and start their sandbox."""
    pending: int
    """Workers that load, or for which there is no node yet."""
    in_flight: int
    """Episodes that workers have been given."""
    nodes: int
    """Nodes that the workers are on."""
    lost: int
    """Workers that died so far."""
    limit: int | None = None
    """Most episodes that may run at once now. None: any number."""


class WorkerPool:
    """Finds a worker for each unit, and has as many workers as there is work for.

    One task of its own grows and shrinks it, whenever the backlog or a worker changes; nothing waits for a
    worker that is still coming up while another has room.

    Args:
        config: How many there may be.
        ask: Asks for a worker of the given name.
        needs: What a worker asks of its node, for messages.
        replicas: Up to how many replicas the policy's deployment grows by itself.
    """

    def __init__(
        self,
        config: WorkersConfig,
        ask: Callable[[str], Worker],
        needs: dict[str, float] | None = None,
        replicas: int = 1,
    ) -> None:
        self._config = config
        self._ask = ask
        self._needs = " and ".join(f"{name} {amount:g}" for name, amount in (needs or {}).items())
        places = config.episodes_per_worker
        self._headroom = Headroom(max(1, config.min) * places, config.max * places, replicas)
        self._members: list[_Member] = []
        self._starting: dict[asyncio.Task[None], Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._expected = 0
        self._held = 0
        self._made = self._lost = self._failures = 0
        self._retry_at = 0.0
        self._last_failure: str | None = None
        self._closed = False

    @property
    def state(self) -> PoolState:
        """How it is doing now."""
        pending = sum(worker.node_id is None for worker in self._starting.values())
        return PoolState(
            up=len(self._members),
            starting=len(self._starting) - pending,
            pending=pending,
            in_flight=sum(self._config.episodes_per_worker - member.free for member in self._members),
            nodes=len({member.worker.node_id for member in self._members}),
            lost=self._lost,
            limit=self._headroom.limit,
        )

    @property
    def workers(self) -> list[Worker]:
        """The workers that are up."""
        return [member.worker for member in self._members]

    def expect(self, episodes: int) -> None:
        """Says how many episodes are still to come to their end, those in flight included."""
        self._expected = episodes
        self._wake.set()

    def hold(self, episodes: int) -> None:
        """Keeps as many workers as so many episodes can use, from now on, though fewer are expected."""
        self._held = max(self._held, episodes)
        self._wake.set()

    async def heed(self, metrics: EngineMetrics) -> None:
        """Takes in how busy the policy is, for `workers.headroom`; to be told once a second."""
        if self._config.headroom == "off":
            return
        before = self._headroom.limit
        self._headroom.look(metrics, self.state.in_flight)
        if self._headroom.limit != before:
            _log.info("episodes running at once, at most: %s", self._headroom.limit or "any number")
            self._tell_of_change()
            self._wake.set()

    async def start(self, episodes: int, say: Callable[[str], None] = lambda _: None) -> None:
        """Asks for as many workers as so many episodes can use, and returns when the first is up.

        Args:
            episodes: See `expect`.
            say: Is told what is being waited for.

        Raises:
            RunError: None comes up, or none in `workers.start_timeout`.
        """
        self.expect(episodes)
        self._adjust()
        self._own(self._tend(), "worker pool")
        deadline = time.monotonic() + self._config.start_timeout
        while not self._members and self._starting and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(min(_SAY_EVERY, deadline - time.monotonic())):
                    while not self._members and self._starting:
                        await self._changed.wait()
            except TimeoutError:
                say(self._waiting_for())
        if self._members:
            return
        if self._starting:
            raise RunError(
                f"no worker came up within workers.start_timeout, {self._config.start_timeout:g} s: "
                f"{self._waiting_for()}"
            )
        raise RunError(f"no worker came up: {self._last_failure}")

    async def seat(self, places: int) -> Seat:
        """Room for a unit of so many episodes, as soon as there is some.

        Raises:
            RunError: There is no worker, and none comes up any more.
        """
        while (member := self._best(places)) is None:
            if self._closed:
                raise RunError("there is no worker left: the workers have been given back")
            if not self._members and not self._starting and self._failures >= _FAILURES:
                raise RunError(f"there is no worker left: {self._last_failure}")
            await self._changed.wait()
        member.free -= places
        return Seat(member, places)

    async def leave(self, seat: Seat) -> None:
        """Gives a seat back; once is enough, and more do no harm.

        It waits for nothing, so that no cancellation can come between a seat's return and the word of it.
        """
        if seat.left:
            return
        seat.left = True
        seat.member.free += seat.places
        seat.member.idle_since = time.monotonic()
        self._wake.set()
        self._tell_of_change()

    async def play(self, specs: list[EpisodeSpec], seat: Seat) -> list[EpisodeResult]:
        """Has a worker play one unit.

        Args:
            specs: The unit.
            seat: The unit's; given back here, if this is not cancelled before it begins.

        Returns:
            A result per episode; none at all if the unit was cancelled.

        Raises:
            WorkerDied: The worker died under it.
            RunError: The seat's worker had gone, and none comes up any more.
        """
        try:
            while seat.member.gone:  # it died before the unit came to it: nothing that a unit has done
                await self.leave(seat)
                seat = await self.seat(len(specs))
            return await seat.member.worker.play(specs)
        except asyncio.CancelledError:
            if not seat.member.gone:
                seat.member.worker.cancel([spec.episode_id for spec in specs])
            raise
        except WorkerDied as error:
            if isinstance(error, PlayFailed | ResultLost):
                # It may be alive, and is to take back what it believes that these results have told.
                seat.member.worker.cancel([spec.episode_id for spec in specs])
            else:
                self._bury(seat.member, str(error))
            raise
        finally:
            await self.leave(seat)

    def set_version(self, version: int) -> None:
        """Tells all workers that the policy has a new version; later ones learn it by their episodes."""
        for member in self._members:
            member.worker.set_version(version)

    async def close(self) -> None:
        """Ends all workers and their sandboxes."""
        self._closed = True
        members, self._members = self._members, []
        for member in members:
            self._stop(member)
        tasks = {*self._starting, *self._tasks}
        for task in tasks:  # at once: the one that grows the pool is to have no more turns
            task.cancel()
        self._tell_of_change()
        if tasks or self._stopping:
            await run_to_end(asyncio.wait({*tasks, *self._stopping}))

    def _wanted(self) -> int:
        """How many workers the episodes still to come can use, or those that workers are kept for."""
        episodes = max(self._expected, self._held)
        at_once = min(episodes, self._most or episodes)
        wanted = math.ceil(at_once / self._config.episodes_per_worker)
        return max(self._config.min, min(self._config.max, wanted), 1)

    @property
    def _most(self) -> int | None:
        """Most episodes that may be in flight; None: any number."""
        return min(filter(None, (self._config.max_in_flight, self._headroom.limit)), default=None)

    def _best(self, places: int) -> _Member | None:
        """The member with the most room; of those that are to stay, if there are more than are wanted."""
        most = self._most
        if most is not None and self.state.in_flight > 0 and self.state.in_flight + places > most:
            return None
        wanted = self._wanted()
        for among in (self._members[:wanted], self._members[wanted:]):
            member = max(among, key=lambda m: m.free, default=None)
            # A group larger than a worker's limit goes to an empty worker: it has to go somewhere.
            if member and (member.free >= places or member.free == self._config.episodes_per_worker):
                return member
        return None

    async def _tend(self) -> None:
        """Grows and shrinks the pool until it is closed."""
        while True:
            self._wake.clear()
            pause = self._adjust()
            deserted = self._lost > 0 and not self._members and bool(self._starting)
            if deserted:
                pause = min(_REMIND_AFTER, pause or _REMIND_AFTER)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                if deserted:
                    _log.warning("no worker is up: %s", self._waiting_for())

    def _adjust(self) -> float | None:
        """Asks for workers, or gives some back.

        Returns:
            Seconds after which to look again, though nothing changes. None: no need.
        """
        now = time.monotonic()
        surplus = len(self._members) + len(self._starting) - self._wanted()
        if surplus < 0:
            if now < self._retry_at:
                return self._retry_at - now
            for _ in range(-surplus):
                self._add()
            return None
        for task, worker in list(self._starting.items())[::-1]:
            if surplus > 0 and worker.node_id is None:
                task.cancel()
                surplus -= 1
        return self._give_back(surplus, now)

    def _give_back(self, surplus: int, now: float) -> float | None:
        """Lets go of workers that have been idle for long enough, but of no more than so many."""
        pauses: list[float] = []
        for member in self._members[::-1]:
            if surplus <= 0 or member.free < self._config.episodes_per_worker:
                continue
            surplus -= 1
            left = member.idle_since + self._config.idle_seconds - now
            if left > 0:
                pauses.append(left)
                continue
            self._members.remove(member)
            _log.info("worker %s has nothing to do: given back", member.worker.name)
            self._stop(member)
        return min(pauses, default=None)

    def _stop(self, member: _Member) -> None:
        member.gone = True
        self._own(member.worker.stop(), f"stop {member.worker.name}", self._stopping)

    def _add(self) -> None:
        self._made += 1
        worker = self._ask(f"worker-{self._made:04d}")
        task = asyncio.create_task(self._bring_up(worker), name=worker.name)
        self._starting[task] = worker
        task.add_done_callback(lambda done: self._starting.pop(done, None))

    async def _bring_up(self, worker: Worker) -> None:
        try:
            await worker.come_up()
        except WorkerFailed as error:
            self._last_failure = str(error)
            self._failures += 1
            self._retry_at = time.monotonic() + min(_LONGEST_PAUSE, 2.0**self._failures)
            _log.warning("worker %s did not come up: %s", worker.name, error)
        except asyncio.CancelledError:
            await run_to_end(worker.stop())
            raise
        else:
            self._failures = 0
            _log.info("worker %s is up: process %s on node %s", worker.name, worker.pid, worker.node_id)
            member = _Member(worker, self._config.episodes_per_worker)
            self._members.append(member)
            self._own(self._watch(member), f"watch {worker.name}")
        finally:
            self._starting = {task: other for task, other in self._starting.items() if other is not worker}
            self._tell_of_change()
            self._wake.set()

    async def _watch(self, member: _Member) -> None:
        """Notices at once when a worker is gone, even one that plays nothing just then."""
        how = await member.worker.end()
        self._bury(member, how)
        self._tell_of_change()

    def _bury(self, member: _Member, how: str) -> None:
        if member.gone or self._closed:
            return
        member.gone = True
        self._lost += 1
        self._last_failure = how
        self._members.remove(member)
        self._wake.set()
        _log.warning("worker %s died; another takes its place: %s", member.worker.name, how)

    def _tell_of_change(self) -> None:
        """Wakes all who wait for room, or for a worker; they look for themselves."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _waiting_for(self) -> str:
        state = self.state
        waits: list[str] = []
        if state.starting:
            waits.append(f"sandboxes starting: {state.starting}")
        if state.pending:
            room = f" for {self._needs}" if self._needs else ""
            waits.append(f"workers loading, or waiting for a node with room{room}: {state.pending}")
        return "; ".join(waits)

    def _own(
        self, work: Coroutine[Any, Any, None], name: str, among: set[asyncio.Task[None]] | None = None
    ) -> None:
        among = self._tasks if among is None else among
        task = asyncio.create_task(work, name=name)
        among.add(task)
        task.add_done_callback(among.discard)
