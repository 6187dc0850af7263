"""The coordinator: takes episodes from the plan, has them played, and puts every one on record."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from cluster.config import RunConfig
from cluster.errors import RunStopped
from cluster.observe.failure_row import FailureRow
from cluster.observe.observers import Observer
from cluster.observe.printed import log_episode_output
from cluster.plan.groups import Groups
from cluster.pool.ray_worker import NodeLost, WorkerDied
from cluster.pool.worker_pool import Seat, WorkerPool
from workers.cancellation import cancel_and_wait, run_to_end
from workers.errors import EpisodeTimeout
from workers.lost_episodes import make_lost_result
from workers.records import EpisodeError, EpisodeResult, EpisodeSpec

_log = logging.getLogger(__name__)
_VERSION_POLL = 0.5
"""Seconds between two looks at the policy's version: a small file read."""
_ANSWER_GRACE = 30.0
"""Seconds beyond an episode's limit that its worker gets to say so."""


class EpisodeStore(Protocol):
    """A store that episodes are written to; a `Dataset` is one."""

    async def add_states(self, states: dict[str, str]) -> None:
        """Adds base environment states."""
        ...

    async def append(self, result: EpisodeResult) -> None:
        """Adds an episode; durable when this returns."""
        ...


class Coordinator:
    """Runs a plan to its end.

    Args:
        config: The config of the run.
        pool: The worker pool that plays the episodes.
        dataset: The store that the episodes are written to.
        observer: The observer that is told what becomes of each episode.
        run_id: The id of the run.
        model: The policy's name, for records of episodes that no worker could record.
        groups: Which episodes are still wanted, where groups are over-sampled. None: all.
        version: Returns the version of the policy's weights now.
        tasks: How many tasks the episodes are of.
    """

    def __init__(
        self,
        config: RunConfig,
        pool: WorkerPool,
        dataset: EpisodeStore,
        observer: Observer,
        run_id: str,
        model: str,
        groups: Groups | None = None,
        version: Callable[[], int | None] = lambda: None,
        tasks: int = 1,
    ) -> None:
        self._version = version
        self._failure_row = FailureRow(config.episode.stop_after, tasks)
        self._config = config
        self._pool = pool
        self._dataset = dataset
        self._observer = observer
        self._run_id = run_id
        self._model = model
        self._groups = groups or Groups(None)
        self._remaining = 0
        self._draining: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, units: Iterable[list[EpisodeSpec] | None], expected: int = 0) -> None:
        """Plays every unit; holds no more of them than the workers have in flight.

        Args:
            units: What workers take at once, made up as there is room. None among them is no unit: it lets
                others have their turn while the next one is looked for.
            expected: Episodes in all of them; the pool grows and shrinks by what is left of them.

        After `drain` it takes up no more of them, gives those in flight `episode.drain_seconds`, and
        returns. Cancelling it, once or more often, breaks off what is in flight at once; what has ended is in
        the dataset, and no seat stays taken.

        Raises:
            RunError: The run cannot go on: no worker, or no place to write to.
            RunStopped: `episode.stop_after` episodes in a row have failed with the same cause.
        """
        self._remaining = expected
        self._pool.expect(expected)
        failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tasks: dict[asyncio.Task[None], Seat] = {}
        watch = asyncio.create_task(self._watch_versions(), name="versions")

        def ended(task: asyncio.Task[None]) -> None:
            tasks.pop(task)
            if not task.cancelled() and (error := task.exception()) and not failure.done():
                failure.set_exception(error)

        try:
            for unit in units:
                if unit is None:
                    await asyncio.sleep(0)
                    if self._draining.done():
                        break
                    continue
                seat = await self._wait_for_seat(len(unit), failure)
                if seat is None:
                    break
                if self._failure_row.reason is not None:  # the unit that found it raises once it is on record
                    await self._pool.release_seat(seat)
                    break
                if not self._groups.take_up(unit):
                    await self._pool.release_seat(seat)
                    self._subtract_ended(len(unit))
                    self._observer.cancelled(len(unit))
                    continue
                task = asyncio.create_task(self._play_until_recorded(unit, seat))
                tasks[task] = seat
                task.add_done_callback(ended)
            while tasks and not self._draining.done():
                await _wait_for_first([*tasks, failure, self._draining])
                if failure.done():
                    failure.result()
            if tasks:
                await asyncio.wait(tasks, timeout=self._config.episode.drain_seconds)
        finally:
            try:
                await run_to_end(self._cancel_in_flight(watch, dict(tasks)))
            finally:
                if not failure.cancel() and (error := failure.exception()) is not None:
                    _log.debug("the rollouts had failed: %r", error)  # and it counts as told of, if cancelled
        if not failure.cancelled():
            failure.result()

    async def _cancel_in_flight(
        self, watch: asyncio.Task[None], tasks: dict[asyncio.Task[None], Seat]
    ) -> None:
        """Ends what `run` has begun; all is told to end before anything is waited for."""
        await cancel_and_wait([watch, *tasks])
        for seat in tasks.values():
            await self._pool.release_seat(seat)  # of a unit that had not begun, nobody else has

    def drain(self) -> None:
        """Has `run` take up nothing more, and end."""
        if not self._draining.done():
            self._draining.set_result(None)

    async def _wait_for_seat(self, places: int, failure: "asyncio.Future[None]") -> Seat | None:
        """A seat for the next unit; None once the run drains.

        Raises:
            RunError: What else has failed meanwhile.
        """
        asked = asyncio.create_task(self._pool.acquire_seat(places))
        taken = False
        try:
            await _wait_for_first([asked, failure, self._draining])
            if failure.done():
                failure.result()
            taken = not self._draining.done()
            return asked.result() if taken else None
        finally:
            if not taken:
                await run_to_end(self._withdraw_seat_request(asked))

    async def _withdraw_seat_request(self, asked: asyncio.Task[Seat]) -> None:
        """Asks for a seat no longer, and gives it back if it has come meanwhile."""
        await cancel_and_wait([asked])
        if not asked.cancelled() and asked.exception() is None:
            await self._pool.release_seat(asked.result())

    async def _play_until_recorded(self, specs: list[EpisodeSpec], first: Seat) -> None:
        """Plays a unit until each of its episodes has a record: with more attempts where that may help."""
        budget: dict[str | None, int] = {**self._config.episode.attempts.model_dump()}
        began = time.monotonic()
        unit, recorded = specs, 0
        seat: Seat | None = first
        while specs:
            if seat is None:  # another attempt, which does not count as in flight while it waits
                seat = await self._pool.acquire_seat(len(specs))
                if self._groups.is_full(unit):
                    await self._pool.release_seat(seat)
                    break
            specs = [spec.model_copy(update=self._next_attempt(spec, began)) for spec in specs]
            self._observer.dispatched(specs)
            try:
                results = await self._play_attempt(specs, seat)
            finally:
                self._observer.returned(specs)
                await self._pool.release_seat(seat)  # an attempt that was cancelled before it began has not
                seat = None
            for failure in {result.failure for result in results} & budget.keys():
                budget[failure] -= 1
            again = {r.episode_id for r in results if budget.get(r.failure, 0) > 0 and not r.lasting}
            for result in results:
                log_episode_output(result)
                if result.status == "failed":
                    self._notify_observer(result, result.episode_id in again)
            if again and len(specs) > 1:  # a group is scored together, so it is played again together
                again = {spec.episode_id for spec in specs}
            recorded += await run_to_end(self._record_results(specs, results, again))
            specs = [spec for spec in specs if spec.episode_id in again]
            self._observer.retried(len(specs))
        self._groups.finish_unit(unit, len(unit) - recorded)
        self._observer.cancelled(len(unit) - recorded)
        self._subtract_ended(len(unit))
        if self._remaining > 0 and (reason := self._failure_row.reason) is not None:
            raise RunStopped(reason)

    async def _record_results(
        self, specs: list[EpisodeSpec], results: list[EpisodeResult], again: set[str]
    ) -> int:
        """Records what an attempt came to, but for the episodes that get another.

        To be done to its end: an episode whose record is being written is not broken off, but has ended.

        Returns:
            How many episodes are on record by it.
        """
        recorded = 0
        for spec, result in zip(specs, results, strict=bool(results)):
            await self._dataset.add_states(result.states)  # a worker names each of them once only
            if result.episode_id in again:
                continue
            if self._groups.claim(spec, result.status == "finished"):
                await self._dataset.append(result)
                self._observer.ended(spec, result)
                self._failure_row.add(spec, result)
                recorded += 1
        return recorded

    def _notify_observer(self, result: EpisodeResult, again: bool) -> None:
        what = "is played again" if again else "is recorded as failed"
        said = (result.error_stage, result.error_message)
        about = {"episode": result.episode_id, "traceback": result.error_traceback}
        _log.info("the episode %s: %s: %s", what, *said, extra=about)

    def _subtract_ended(self, episodes: int) -> None:
        """Subtracts episodes that have ended, or will not be played, from those that remain."""
        self._remaining -= episodes
        self._pool.expect(self._remaining)

    def _next_attempt(self, spec: EpisodeSpec, began: float) -> dict[str, Any]:
        """Returns the fields of a spec that change from one attempt to the next."""
        limit = self._config.episode.timeout
        left = None if limit is None else max(0.1, limit - (time.monotonic() - began))
        return {
            "attempt": spec.attempt + 1,
            "dispatched_at": time.time(),
            "seconds_left": left,
            "policy_version": self._version(),
        }

    async def _watch_versions(self) -> None:
        """Tells workers of a new version, which another process may have brought."""
        told = self._version()
        while told is not None:
            await asyncio.sleep(_VERSION_POLL)
            version = self._version()
            if version is not None and version != told:
                told = version
                self._pool.set_version(version)

    async def _play_attempt(self, specs: list[EpisodeSpec], seat: Seat) -> list[EpisodeResult]:
        """One attempt. The worker keeps the time; when even that does not come back, we do.

        Returns:
            A result per episode; none if their group has enough without them.
        """
        left = specs[0].seconds_left
        attempt = asyncio.ensure_future(self._pool.play(specs, seat))
        self._groups.watch_attempt(specs, attempt)
        try:
            async with asyncio.timeout(None if left is None else left + _ANSWER_GRACE):
                return await attempt
        except asyncio.CancelledError:
            await run_to_end(self._keep_states(attempt))
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return []
        except NodeLost as error:
            return [self._make_lost_result(spec, EpisodeError.of("worker", "node", error)) for spec in specs]
        except WorkerDied as error:
            return [
                self._make_lost_result(spec, EpisodeError.of("worker", "worker", error)) for spec in specs
            ]
        except TimeoutError:
            await run_to_end(self._keep_states(attempt))
            error = EpisodeTimeout(f"no worker answered within episode.timeout and {_ANSWER_GRACE:g} s")
            return [self._make_lost_result(spec, EpisodeError.of("queue", "task", error)) for spec in specs]

    async def _keep_states(self, attempt: "asyncio.Future[list[EpisodeResult]]") -> None:
        """Keeps the base states of results that come too late to be used: their worker names none twice."""
        if attempt.done() and not attempt.cancelled() and attempt.exception() is None:
            for result in attempt.result():
                await self._dataset.add_states(result.states)

    def _make_lost_result(self, spec: EpisodeSpec, error: EpisodeError) -> EpisodeResult:
        """Makes the result of an episode whose worker cannot report one."""
        return make_lost_result(
            spec,
            error,
            run_id=self._run_id,
            environment=self._config.environment,
            model=self._model,
        )


async def _wait_for_first(futures: "list[asyncio.Future[Any]]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
