"""The rollout workers of a run: Ray actors, made as the backlog asks, replaced when they die."""

import asyncio
import logging
import math
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.config import WorkersConfig
from cluster.errors import RunError
from workers.records import EpisodeResult, EpisodeSpec
from workers.rollout_worker import RolloutWorker
from workers.settings import WorkerSettings

_log = logging.getLogger(__name__)
_STOP_TIMEOUT = 30.0
"""Seconds that a worker gets to end its sandbox before it is killed; its sandbox then ends by itself."""
_MORE_THREADS = 4
"""Beside those that wait for episodes: a worker must hear `stop` while it is full."""


class WorkerDied(Exception):
    """A worker process is gone, and with it what it was playing."""


@dataclass(eq=False)
class _Worker:
    name: str
    actor: Any
    free: int
    dead: bool = False
    pid: int | None = None


@dataclass
class _Life:
    """What became of the workers."""

    made: int = 0
    died: int = 0
    last_failure: BaseException | None = None
    starting: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])


class WorkerPool:
    """Takes episodes, finds a worker for each, waits when all are full.

    Args:
        settings: What every worker is started with.
        config: How many there may be.
        uses_sandbox: Whether workers need a node that has Docker: the custom resource `sandbox`.
    """

    def __init__(self, settings: WorkerSettings, config: WorkersConfig, uses_sandbox: bool) -> None:
        self._settings = settings
        self._config = config
        resources = {"sandbox": 1.0} if uses_sandbox else {}
        self._actor_class = ray.remote(RolloutWorker).options(
            num_cpus=config.cpus_per_worker,
            resources=resources,
            max_concurrency=config.episodes_per_worker + _MORE_THREADS,
        )
        self._workers: list[_Worker] = []
        self._life = _Life()
        self._change = asyncio.Condition()
        self._closed = False

    @property
    def capacity(self) -> int:
        """Episodes that can be in flight at once when all workers are up."""
        return self._config.max * self._config.episodes_per_worker

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    async def start(self, episodes: int) -> None:
        """Starts as many workers as so many episodes can use, and returns when the first is up.

        Raises:
            RunError: None comes up.
        """
        wanted = math.ceil(episodes / self._config.episodes_per_worker)
        for _ in range(max(self._config.min, min(self._config.max, wanted), 1)):
            self._add_worker()
        async with self._change:
            await self._change.wait_for(lambda: self._workers or not self._life.starting)
        if not self._workers:
            raise RunError(f"no worker came up: {self._life.last_failure}")

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """Has a worker play one unit, as soon as one has room.

        Raises:
            WorkerDied: The worker died under it.
            RunError: There is no worker, and none comes up any more.
        """
        worker = await self._take(len(specs))
        try:
            return await worker.actor.play.remote(specs)
        except RayActorError as error:
            self._bury(worker, error)
            raise WorkerDied(f"worker {worker.name} died: {_first_line(error)}") from error
        except RayTaskError as error:
            raise WorkerDied(f"worker {worker.name} failed: {error.cause}") from error
        finally:
            await self._give_back(worker, len(specs))

    async def close(self) -> None:
        """Ends all workers and their sandboxes."""
        self._closed = True
        for task in self._life.starting:
            task.cancel()
        if self._life.starting:
            await asyncio.wait(self._life.starting)
        await asyncio.gather(*(self._stop(worker) for worker in self._workers))
        self._workers.clear()

    def _add_worker(self) -> None:
        self._life.made += 1
        name = f"worker-{self._life.made:04d}"
        task = asyncio.create_task(self._bring_up(name), name=name)
        self._life.starting.add(task)

    async def _bring_up(self, name: str) -> None:
        actor: Any = self._actor_class.remote(self._settings, name)
        worker = _Worker(name, actor, self._config.episodes_per_worker)
        try:
            worker.pid = await actor.ready.remote()
            self._workers.append(worker)
        except RayError as error:
            cause = cast(BaseException, error.cause) if isinstance(error, RayTaskError) else error
            self._life.last_failure = cause
            _log.warning("worker %s did not come up: %s", name, cause)
            ray.kill(actor)
        except asyncio.CancelledError:
            await self._stop(worker)
            raise
        finally:
            self._life.starting.discard(asyncio.current_task())  # type: ignore[arg-type]
            async with self._change:
                self._change.notify_all()

    async def _take(self, places: int) -> _Worker:
        """The worker with the most room."""
        async with self._change:
            while True:
                if not self._workers and not self._life.starting:
                    raise RunError(f"there is no worker left: {self._life.last_failure}")
                worker = max(self._workers, key=lambda w: w.free, default=None)
                # A group larger than a worker's limit goes to an empty worker: it has to go somewhere.
                if worker and (worker.free >= places or worker.free == self._config.episodes_per_worker):
                    worker.free -= places
                    return worker
                await self._change.wait()

    async def _give_back(self, worker: _Worker, places: int) -> None:
        async with self._change:
            worker.free += places
            self._change.notify_all()

    def _bury(self, worker: _Worker, error: BaseException) -> None:
        if worker.dead:
            return
        worker.dead = True
        self._life.died += 1
        self._life.last_failure = error
        self._workers.remove(worker)
        if not self._closed:
            _log.warning("worker %s died; another takes its place", worker.name)
            self._add_worker()

    async def _stop(self, worker: _Worker) -> None:
        try:
            await asyncio.wait_for(worker.actor.stop.remote(), _STOP_TIMEOUT)
        except (TimeoutError, RayError):
            _log.warning("worker %s did not stop in order; it is killed", worker.name)
        ray.kill(worker.actor)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
