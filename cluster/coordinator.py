"""The coordinator: takes episodes from the plan, has them played, and puts every one on record."""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from cluster.config import RunConfig
from cluster.dataset import Dataset
from cluster.progress import Progress
from cluster.worker_pool import WorkerDied, WorkerPool
from workers.environments.messages import to_records
from workers.errors import EpisodeTimeout
from workers.records import (
    EpisodeError,
    EpisodeRecord,
    EpisodeResult,
    EpisodeSpec,
    Timings,
    Usage,
)

_GRACE = 30.0
"""Seconds beyond an episode's limit that its worker gets to say so."""


class Coordinator:
    """Runs a plan to its end.

    Args:
        config: The run's.
        pool: Who plays.
        dataset: Where the records go.
        progress: Who is told.
        run_id: The run.
        model: The policy's name, for records of episodes that no worker could record.
    """

    def __init__(
        self,
        config: RunConfig,
        pool: WorkerPool,
        dataset: Dataset,
        progress: Progress,
        run_id: str,
        model: str,
    ) -> None:
        self._config = config
        self._pool = pool
        self._dataset = dataset
        self._progress = progress
        self._run_id = run_id
        self._model = model
        self._draining: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, units: Iterable[list[EpisodeSpec]]) -> None:
        """Plays every unit; holds no more of them than the workers can have in flight.

        After `drain` it takes up no more of them, gives those in flight `episode.drain_seconds`, and
        returns. Cancelling it breaks off what is in flight at once; what has ended is in the dataset.

        Raises:
            RunError: The run cannot go on: no worker, or no place to write to.
        """
        room = asyncio.Semaphore(self._pool.capacity)
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tasks: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            room.release()
            if not task.cancelled() and (error := task.exception()) and not failure.done():
                failure.set_exception(error)

        try:
            for unit in units:
                await _either(room.acquire(), failure, self._draining)
                if self._draining.done():
                    break
                task = asyncio.create_task(self._see_through(unit))
                tasks.add(task)
                task.add_done_callback(ended)
            while tasks and not self._draining.done():
                await _first([*tasks, failure, self._draining])
                if failure.done():
                    failure.result()
            if tasks:
                await asyncio.wait(tasks, timeout=self._config.episode.drain_seconds)
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            if failure.done():
                failure.exception()
            else:
                failure.cancel()

    def drain(self) -> None:
        """Has `run` take up nothing more, and end."""
        if not self._draining.done():
            self._draining.set_result(None)

    async def _see_through(self, specs: list[EpisodeSpec]) -> None:
        """Plays a unit until each of its episodes has a record: with more attempts where that may help."""
        budget: dict[str | None, int] = {**self._config.episode.attempts.model_dump()}
        began = time.monotonic()
        while specs:
            specs = [spec.model_copy(update=self._dispatch(spec, began)) for spec in specs]
            self._progress.dispatched(len(specs))
            try:
                results = await self._play(specs)
            finally:
                self._progress.returned(len(specs))
            for failure in {result.failure for result in results} & budget.keys():
                budget[failure] -= 1
            again = {r.episode_id for r in results if budget.get(r.failure, 0) > 0}
            if again and len(specs) > 1:  # a group is scored together, so it is played again together
                again = {spec.episode_id for spec in specs}
            for result in results:
                await self._dataset.add_states(result.states)  # a worker names each of them once only
                if result.episode_id not in again:
                    await self._dataset.append(result)
                    self._progress.ended(result)
            specs = [spec for spec in specs if spec.episode_id in again]
            self._progress.retried(len(specs))

    def _dispatch(self, spec: EpisodeSpec, began: float) -> dict[str, Any]:
        """What changes on a spec from one attempt to the next."""
        limit = self._config.episode.timeout
        left = None if limit is None else max(0.1, limit - (time.monotonic() - began))
        return {"attempt": spec.attempt + 1, "dispatched_at": time.time(), "seconds_left": left}

    async def _play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """One attempt. The worker keeps the time; when even that does not come back, we do."""
        left = specs[0].seconds_left
        try:
            async with asyncio.timeout(None if left is None else left + _GRACE):
                return await self._pool.play(specs)
        except WorkerDied as error:
            return [self._lost(spec, EpisodeError.of("worker", "worker", error)) for spec in specs]
        except TimeoutError:
            error = EpisodeTimeout(f"no worker answered within episode.timeout and {_GRACE:g} s")
            return [self._lost(spec, EpisodeError.of("queue", "task", error)) for spec in specs]

    def _lost(self, spec: EpisodeSpec, error: EpisodeError) -> EpisodeResult:
        """The record of an episode of which no worker can tell."""
        labels = spec.labels
        now = time.time()
        timings = Timings(total=now - spec.dispatched_at)
        record = EpisodeRecord(
            episode_id=spec.episode_id,
            task_id=spec.task_id,
            group_id=spec.group_id,
            sample_index=spec.sample_index,
            run_id=self._run_id,
            environment=self._config.environment.name,
            suite=labels.suite,
            user_task=labels.user_task,
            injection_task=labels.injection_task,
            attack=labels.attack,
            status="failed",
            error=error,
            messages=to_records(spec.row["prompt"]),
            steps=[],
            model=self._model,
            usage=Usage(),
            timings=timings,
            attempt=spec.attempt,
            started_at=spec.dispatched_at,
            worker_id="",
            node_id="",
        )
        return EpisodeResult(
            episode_id=spec.episode_id,
            status="failed",
            failure=error.kind,
            reward=None,
            metrics={},
            error_stage=error.stage,
            error_message=f"{error.type}: {error.message}",
            labels=labels,
            usage=Usage(),
            timings=timings,
            record=record.model_dump_json(),
        )


async def _either(acquire: Coroutine[Any, Any, bool], *others: "asyncio.Future[None]") -> None:
    """Waits for a place, or for what makes it pointless: a failure, which is raised, or a drain."""
    waiting = asyncio.create_task(acquire)
    try:
        await _first([waiting, *others])
        for other in others:
            if other.done():
                other.result()
    finally:
        waiting.cancel()


async def _first(futures: "list[asyncio.Future[Any]]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
