"""Rollouts for a trainer's loop: all stays up between iterations, while the weights change."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from cluster.config import RunConfig, check_sampling
from cluster.config.file import load_config
from cluster.config.values import check_values
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.durable import naming_place
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session, end_session
from cluster.errors import ConfigError, RunError
from cluster.measures import RunObservers
from cluster.observe.progress import Progress
from cluster.observe.summary import summarise_run, write_summary
from cluster.parts import RunComponents, start_components
from cluster.plan.iteration import Iteration, RolloutGroup
from cluster.plan.plan import Plan
from cluster.plan.resume import (
    begun_packages,
    check_image,
    check_tasks,
    note_tasks,
    order_seed,
    resumable_config,
)
from cluster.plan.schedule import Schedule
from cluster.policy.models.description import describe_run
from cluster.policy.sampling import check_sampling_keys
from workers import logs
from workers.cancellation import run_to_end
from workers.records import EpisodeSpec
from workers.settings import SamplingSettings, Split

__all__ = ["RolloutEngine", "RolloutGroup"]


class RolloutEngine:
    """A policy, workers and an environment that stay up while a trainer loops.

    `async with` brings them up and ends them; what is played is a run like any other, in a folder of its
    own. It must be entered on the main thread, where verifiers builds its environment.

    Args:
        config: The run, or its YAML file. `samples` is the default of `rollouts`; `limit` bounds the tasks
            that they choose from, also those by name.
        out: The run's folder, or a URI. None: `<output>/<name>-<time>`.
        resume: Go on with the run that `out` holds, whose loop has ended, or was killed: with the iteration
            after its last one, and the tasks that come next. What is missing of that one stays missing. The
            policy is as the config says: the trainer gives it the weights to go on from.
        console: Where to tell how it goes. None: nowhere.

    Raises:
        ConfigError: The config is not right, or the folder is taken, or holds nothing to go on with.
        ManifestError: There is no run to go on with.
    """

    def __init__(
        self,
        config: RunConfig | Path | str,
        out: Path | str | None = None,
        console: Console | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self._config = config if isinstance(config, RunConfig) else load_config(Path(config))
        check_values(self._config)
        if self._config.keep is not None:
            raise ConfigError("keep: a rollout engine plays every episode; leave it out")
        if not resume:
            self._target = Target.new(self._config, None if out is None else str(out))
        elif out is None:
            raise ConfigError("resume: give the run's folder, or URI, as `out`")
        else:
            self._target = Target.resumed(str(out), retry_failed=False)
            resumable_config(self._target.folder, self._config, loop=True)
        self._progress = Progress(console or Console(quiet=True))
        self._stack = AsyncExitStack()
        self._up: tuple[RunComponents, Dataset, RunObservers, Schedule] | None = None
        self._began = time.monotonic()
        self._current: Iteration | None = None
        self._preparing = asyncio.Lock()
        self._updating = asyncio.Lock()
        self._planned = 0
        self._seconds_before = 0.0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._target.folder

    @property
    def version(self) -> int | None:
        """Version of the weights that new episodes act with."""
        return self._components[0].policy.version

    async def rollouts(
        self,
        tasks: Collection[str] | int | None = None,
        samples: int | None = None,
        *,
        split: Split | None = None,
        sampling: SamplingSettings | None = None,
    ) -> AsyncGenerator[RolloutGroup]:
        """Plays one iteration; gives each group as soon as its last episode has ended and is on disk.

        Leaving the loop early breaks off what is still in flight; where the generator is kept, the next
        iteration or the engine's end does. A call that is refused, or is cancelled before anything of it is
        played, leaves all as it was.

        Args:
            tasks: Ids of tasks; or how many, going round and round; None: all. A task that comes twice is
                two groups.
            samples: Rollouts per task. None: the config's.
            split: Whose tasks: `eval`, to evaluate between two iterations of `train`. None: the config's.
            sampling: How actions are sampled, in place of all of `policy.sampling`. None: the config's.

        Raises:
            ConfigError: There is no such task or split, a number is not above 0, or the policy can't be
                sampled like that.
            RunError: The rollouts cannot go on, or the next ones have begun.
            RunStopped: `episode.stop_after` episodes in a row have failed with the same cause, or nothing of
                them has finished.
        """
        async with self._preparing:
            components, dataset, observers, schedule = self._components
            samples = self._config.samples if samples is None else samples
            if sampling is not None:
                check_sampling(self._config.policy, sampling)
                check_sampling_keys(self._config.policy, sampling)
            split = self._config.environment.split if split is None else split
            before = schedule.place
            try:
                # To its end: a thread that went on by itself would move the schedule under the next call.
                groups = await run_to_end(asyncio.to_thread(schedule.groups, tasks, samples, split, sampling))
                await self._cancel_iteration()
                await run_to_end(note_tasks(dataset, split, schedule.plan(split), loop=True))
                expected = sum(map(len, groups))
                await run_to_end(dataset.set_planned(self._planned + expected, schedule.place))
            except BaseException:
                schedule.return_to(before)
                raise
            self._planned += expected
            components.pool.keep_workers_for(expected)
            observers.expect(expected)
            iteration = self._current = Iteration(dataset, groups, observers.episode_observers.cancelled)
            iteration.begin(self._play_iteration(components, observers, iteration, groups, expected))
        async with aclosing(iteration.groups()) as ended:
            async for group in ended:
                yield group

    async def _play_iteration(
        self,
        components: RunComponents,
        observers: RunObservers,
        iteration: Iteration,
        groups: list[list[EpisodeSpec]],
        expected: int,
    ) -> None:
        coordinator = Coordinator(
            self._config,
            components.pool,
            iteration,
            observers.episode_observers,
            self._target.run_id,
            components.model,
            None,
            lambda: components.policy.version,
            len({group[0].task_id for group in groups}),
        )
        units = groups if components.plan.whole_groups else [[spec] for group in groups for spec in group]
        with self._progress.episodes(expected):
            await coordinator.run(units, expected)

    async def _cancel_iteration(self) -> None:
        if self._current is not None:
            await self._current.break_off()

    async def update_policy(self, path: Path | str, version: int | None = None) -> int:
        """Gives the policy new weights, and returns when all its replicas have them.

        Args:
            path: Folder of a LoRA adapter, as PEFT writes it, or of a full checkpoint, as transformers does;
                or a URI of one, `s3://…`, `gs://…`, or what else fsspec knows.
            version: Its version, above the present one. None: the next.

        Returns:
            Its version.

        Raises:
            UpdateRefused: The policy does not take it; the version before keeps serving.
            PolicyUnavailable: The policy does not answer.
        """
        components, *_ = self._components
        async with self._updating:
            version = components.policy.next_version if version is None else version
            # To its end: a thread that went on by itself would share a version's folder with the next call.
            await run_to_end(asyncio.to_thread(components.policy.update, path, version))
            components.pool.set_version(version)
        return version

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._target.held(self._config))
            run_id, seed = self._target.run_id, order_seed(self._target.folder, self._config)
            components = stack.enter_context(
                start_components(
                    self._config,
                    run_id,
                    self._progress,
                    seed,
                    self._check_plan,
                    self._check_image,
                    packages=begun_packages(self._target.folder, self._config),
                )
            )
            stack.push_async_callback(components.pool.close)
            with self._progress.stage("workers") as stage:
                await components.pool.start(components.plan.episodes, stage.say)
            self._target.make(self._config)
            self._target.keep_packages(components.packages)
            sampling, version = components.environment_sampling, components.policy.version
            description = describe_run(self._config, components.model, sampling)
            begin_session(self.folder, description, version, components.image_id)
            with naming_place(self.folder):
                log = logs.LogFile(self._target.folder / "log.jsonl", encoding="utf-8")
            logs.log_to(log, run=self._target.run_id)
            stack.callback(logs.stop_logging_to, log)
            if self._target.remote is not None:
                following = self._target.remote.following(self._config.upload_seconds)
                await stack.enter_async_context(following)
            dataset = await stack.enter_async_context(await self._target.open_dataset())
            before = dataset.manifest
            self._planned, self._seconds_before = before.planned or 0, before.wall_seconds or 0.0
            schedule = Schedule(self._plan_loader(components), before.loop)
            self._began = time.monotonic()
            stack.push_async_callback(self._end_run, components, dataset, schedule)
            await note_tasks(dataset, self._config.environment.split, components.plan, loop=True)
            await dataset.set_planned(self._planned, schedule.place)
            observers = RunObservers(
                components, self._target.folder, self._target.run_id, self._progress, 0, between="trainer"
            )
            await stack.enter_async_context(observers.observing(self._config.observe.every))
            stack.push_async_callback(self._cancel_iteration)
            self._stack = stack.pop_all()
        self._up = components, dataset, observers, schedule
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await run_to_end(self._close())

    async def _close(self) -> None:
        async with self._preparing:
            self._up = None
        await self._stack.aclose()

    async def _end_run(self, components: RunComponents, dataset: Dataset, schedule: Schedule) -> None:
        """Gives the workers back, and makes shards of what there is; what is not there was broken off."""
        await components.pool.close()
        missing = self._planned - len(await dataset.episode_ids())
        seconds = self._seconds_before + time.monotonic() - self._began
        await dataset.commit(wall_seconds=seconds, cancelled=missing)
        if dataset.manifest.planned != self._planned:  # a call that was cancelled had been noted already
            await dataset.set_planned(self._planned, schedule.place)
        end_session(self.folder, components.policy.version)
        write_summary(self._target.folder, summarise_run(self._target.folder))

    def _check_plan(self, plan: Plan, split: Split | None = None) -> None:
        """Refuses tasks that are not those of the run that is taken up."""
        check_tasks(self._target.folder, split or self._config.environment.split, plan, loop=True)

    def _check_image(self, tag: str, image_id: str | None) -> None:
        check_image(self._target.folder, tag, image_id)

    def _plan_loader(self, components: RunComponents) -> Callable[[Split], Plan]:
        def plan_of(split: Split) -> Plan:
            plan = components.plan_of(split)
            self._check_plan(plan, split)
            return plan

        return plan_of

    @property
    def _components(self) -> tuple[RunComponents, Dataset, RunObservers, Schedule]:
        if self._up is None:
            raise RunError("a rollout engine works inside its `async with` only")
        return self._up
