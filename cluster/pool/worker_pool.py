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
_WAIT_NOTE_INTERVAL = 10.0
"""Seconds between two words on what a run's first worker is waiting for."""
_MAX_START_FAILURES = 3
"""Workers that fail to come up, one attempt after the other, before a run without any gives up."""
_WAIT_WARNING_AFTER = 60.0
"""Seconds between two warnings that all workers are lost and none has come up."""
_MAX_RETRY_PAUSE = 60.0
"""Seconds before the next attempt at a worker after several have failed to come up."""


@dataclass(eq=False)
class _Member:
    """A worker that is up, with its free places."""

    worker: Worker
    free: int
    idle_since: float = field(default_factory=time.monotonic)
    gone: bool = False


@dataclass(eq=False)
class Seat:
    """A seat: a slot on a worker that one unit takes while it is played."""

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

    def keep_workers_for(self, episodes: int) -> None:
        """Keeps as many workers as this many episodes can use from now on, even if fewer are expected."""
        self._held = max(self._held, episodes)
        self._wake.set()

    async def apply_metrics(self, metrics: EngineMetrics) -> None:
        """Adapts the limit of `workers.headroom` to the policy's metrics. To be called once a second."""
        if self._config.headroom == "off":
            return
        before = self._headroom.limit
        self._headroom.update_limit(metrics, self.state.in_flight)
        if self._headroom.limit != before:
            _log.info("episodes running at once, at most: %s", self._headroom.limit or "any number")
            self._notify_waiting()
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
        self._adjust_size()
        self._track_task(self._adjust_until_closed(), "worker pool")
        deadline = time.monotonic() + self._config.start_timeout
        while not self._members and self._starting and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(min(_WAIT_NOTE_INTERVAL, deadline - time.monotonic())):
                    while not self._members and self._starting:
                        await self._changed.wait()
            except TimeoutError:
                say(self._describe_missing_workers())
        if self._members:
            return
        if self._starting:
            raise RunError(
                f"no worker came up within workers.start_timeout, {self._config.start_timeout:g} s: "
                f"{self._describe_missing_workers()}"
            )
        raise RunError(f"no worker came up: {self._last_failure}")

    async def acquire_seat(self, places: int) -> Seat:
        """Waits for a free seat for a unit of `places` episodes.

        Raises:
            RunError: There is no worker, and none comes up any more.
        """
        while (member := self._find_freest_member(places)) is None:
            if self._closed:
                raise RunError("there is no worker left: the workers have been given back")
            if not self._members and not self._starting and self._failures >= _MAX_START_FAILURES:
                raise RunError(f"there is no worker left: {self._last_failure}")
            await self._changed.wait()
        member.free -= places
        return Seat(member, places)

    async def release_seat(self, seat: Seat) -> None:
        """Gives a seat back. It is safe to call twice.

        It waits for nothing, so that no cancellation can come between a seat's return and the word of it.
        """
        if seat.left:
            return
        seat.left = True
        seat.member.free += seat.places
        seat.member.idle_since = time.monotonic()
        self._wake.set()
        self._notify_waiting()

    async def play(self, specs: list[EpisodeSpec], seat: Seat) -> list[EpisodeResult]:
        """Has the seat's worker play one unit.

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
                await self.release_seat(seat)
                seat = await self.acquire_seat(len(specs))
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
                self._remove_lost_worker(seat.member, str(error))
            raise
        finally:
            await self.release_seat(seat)

    def set_version(self, version: int) -> None:
        """Tells all workers that the policy has a new version; later ones learn it by their episodes."""
        for member in self._members:
            member.worker.set_version(version)

    async def close(self) -> None:
        """Ends all workers and their sandboxes."""
        self._closed = True
        members, self._members = self._members, []
        for member in members:
            self._stop_worker(member)
        tasks = {*self._starting, *self._tasks}
        for task in tasks:  # at once: the one that grows the pool is to have no more turns
            task.cancel()
        self._notify_waiting()
        if tasks or self._stopping:
            await run_to_end(asyncio.wait({*tasks, *self._stopping}))

    def _count_wanted_workers(self) -> int:
        """Counts the workers that the remaining episodes, or those that workers are kept for, can use."""
        episodes = max(self._expected, self._held)
        at_once = min(episodes, self._max_in_flight or episodes)
        wanted = math.ceil(at_once / self._config.episodes_per_worker)
        return max(self._config.min, min(self._config.max, wanted), 1)

    @property
    def _max_in_flight(self) -> int | None:
        """Most episodes that may be in flight; None: any number."""
        return min(filter(None, (self._config.max_in_flight, self._headroom.limit)), default=None)

    def _find_freest_member(self, places: int) -> _Member | None:
        """Finds the worker with the most free places, among those that are to stay if there are too many."""
        most = self._max_in_flight
        if most is not None and self.state.in_flight > 0 and self.state.in_flight + places > most:
            return None
        wanted = self._count_wanted_workers()
        for among in (self._members[:wanted], self._members[wanted:]):
            member = max(among, key=lambda m: m.free, default=None)
            # A group larger than a worker's limit goes to an empty worker: it has to go somewhere.
            if member and (member.free >= places or member.free == self._config.episodes_per_worker):
                return member
        return None

    async def _adjust_until_closed(self) -> None:
        """Keeps the number of workers at what is wanted until the pool is closed; replaces lost ones."""
        while True:
            self._wake.clear()
            pause = self._adjust_size()
            deserted = self._lost > 0 and not self._members and bool(self._starting)
            if deserted:
                pause = min(_WAIT_WARNING_AFTER, pause or _WAIT_WARNING_AFTER)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                if deserted:
                    _log.warning("no worker is up: %s", self._describe_missing_workers())

    def _adjust_size(self) -> float | None:
        """Requests workers that are missing, or releases idle ones.

        Returns:
            Seconds after which to look again, though nothing changes. None: no need.
        """
        now = time.monotonic()
        surplus = len(self._members) + len(self._starting) - self._count_wanted_workers()
        if surplus < 0:
            if now < self._retry_at:
                return self._retry_at - now
            for _ in range(-surplus):
                self._request_worker()
            return None
        for task, worker in list(self._starting.items())[::-1]:
            if surplus > 0 and worker.node_id is None:
                task.cancel()
                surplus -= 1
        return self._release_idle_workers(surplus, now)

    def _release_idle_workers(self, surplus: int, now: float) -> float | None:
        """Stops at most `surplus` workers that have been idle for `workers.idle_seconds`."""
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
            self._stop_worker(member)
        return min(pauses, default=None)

    def _stop_worker(self, member: _Member) -> None:
        member.gone = True
        self._track_task(member.worker.stop(), f"stop {member.worker.name}", self._stopping)

    def _request_worker(self) -> None:
        self._made += 1
        worker = self._ask(f"worker-{self._made:04d}")
        task = asyncio.create_task(self._start_worker(worker), name=worker.name)
        self._starting[task] = worker
        task.add_done_callback(lambda done: self._starting.pop(done, None))

    async def _start_worker(self, worker: Worker) -> None:
        try:
            await worker.wait_until_ready()
        except WorkerFailed as error:
            self._last_failure = str(error)
            self._failures += 1
            self._retry_at = time.monotonic() + min(_MAX_RETRY_PAUSE, 2.0**self._failures)
            _log.warning("worker %s did not come up: %s", worker.name, error)
        except asyncio.CancelledError:
            await run_to_end(worker.stop())
            raise
        else:
            self._failures = 0
            _log.info("worker %s is up: process %s on node %s", worker.name, worker.pid, worker.node_id)
            member = _Member(worker, self._config.episodes_per_worker)
            self._members.append(member)
            self._track_task(self._watch_worker(member), f"watch {worker.name}")
        finally:
            self._starting = {task: other for task, other in self._starting.items() if other is not worker}
            self._notify_waiting()
            self._wake.set()

    async def _watch_worker(self, member: _Member) -> None:
        """Waits for a worker's end, so that the loss of an idle worker is noticed at once, too."""
        how = await member.worker.wait_for_end()
        self._remove_lost_worker(member, how)
        self._notify_waiting()

    def _remove_lost_worker(self, member: _Member, how: str) -> None:
        if member.gone or self._closed:
            return
        member.gone = True
        self._lost += 1
        self._last_failure = how
        self._members.remove(member)
        self._wake.set()
        _log.warning("worker %s died; another takes its place: %s", member.worker.name, how)

    def _notify_waiting(self) -> None:
        """Wakes everything that waits for a free seat or for a worker."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _describe_missing_workers(self) -> str:
        state = self.state
        waits: list[str] = []
        if state.starting:
            waits.append(f"sandboxes starting: {state.starting}")
        if state.pending:
            room = f" for {self._needs}" if self._needs else ""
            waits.append(f"workers loading, or waiting for a node with room{room}: {state.pending}")
        return "; ".join(waits)

    def _track_task(
        self, work: Coroutine[Any, Any, None], name: str, among: set[asyncio.Task[None]] | None = None
    ) -> None:
        among = self._tasks if among is None else among
        task = asyncio.create_task(work, name=name)
        among.add(task)
        task.add_done_callback(among.discard)
