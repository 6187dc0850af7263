"""Rollouts for a trainer's loop: all stays up between iterations, while the weights change."""

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from cluster.config import RunConfig, check_sampling
from cluster.config_file import load_config
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.run_folder import Target
from cluster.errors import ConfigError, RunError
from cluster.iteration import Iteration, RolloutGroup
from cluster.observe.measures import Measures
from cluster.observe.progress import Progress
from cluster.observe.summary import summarise, write_summary
from cluster.parts import Parts, brought_up
from cluster.resume import resumable_config
from cluster.schedule import Schedule
from workers import logs
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
        self._up: tuple[Parts, Dataset, Measures, Schedule] | None = None
        self._began = time.monotonic()
        self._current: Iteration | None = None
        self._preparing = asyncio.Lock()
        self._planned = 0
        self._seconds_before = 0.0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._target.folder

    @property
    def version(self) -> int | None:
        """Version of the weights that new episodes act with."""
        return self._parts[0].policy.version

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
        iteration or the engine's end does.

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
        """
        async with self._preparing:
            parts, dataset, measures, schedule = self._parts
            await self._break_off()
            samples = self._config.samples if samples is None else samples
            if sampling is not None:
                check_sampling(self._config.policy, sampling)
            split = split or self._config.environment.split
            groups = await asyncio.to_thread(schedule.groups, tasks, samples, split, sampling)
            expected = sum(map(len, groups))
            self._planned += expected
            await dataset.set_planned(self._planned, schedule.place)
            parts.pool.hold(expected)
            measures.expect(expected)
            iteration = self._current = Iteration(dataset, groups, measures.observers.cancelled)
            iteration.begin(self._play(parts, measures, iteration, groups, expected))
        async with aclosing(iteration.groups()) as ended:
            async for group in ended:
                yield group

    async def _play(
        self,
        parts: Parts,
        measures: Measures,
        iteration: Iteration,
        groups: list[list[EpisodeSpec]],
        expected: int,
    ) -> None:
        coordinator = Coordinator(
            self._config,
            parts.pool,
            iteration,
            measures.observers,
            self._target.run_id,
            parts.model,
            None,
            lambda: parts.policy.version,
        )
        units = groups if parts.plan.whole_groups else [[spec] for group in groups for spec in group]
        with self._progress.episodes(expected):
            await coordinator.run(units, expected)

    async def _break_off(self) -> None:
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
        parts, *_ = self._parts
        version = parts.policy.next_version if version is None else version
        await asyncio.to_thread(parts.policy.update, path, version)
        parts.pool.set_version(version)
        return version

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            parts = stack.enter_context(brought_up(self._config, self._target.run_id, self._progress))
            stack.push_async_callback(parts.pool.close)
            with self._progress.stage("workers") as stage:
                await parts.pool.start(parts.plan.episodes, stage.say)
            self._target.make(self._config)
            log = logs.LogFile(self._target.folder / "log.jsonl", encoding="utf-8")
            logs.log_to(log, run=self._target.run_id)
            stack.callback(logs.stop_logging_to, log)
            if self._target.remote is not None:
                following = self._target.remote.following(self._config.upload_seconds)
                await stack.enter_async_context(following)
            opened = await Dataset.open(self._target.folder, self._target.run_id)
            dataset = await stack.enter_async_context(opened)
            stack.push_async_callback(self._end, parts, dataset)
            before = dataset.manifest
            self._planned, self._seconds_before = before.planned or 0, before.wall_seconds or 0.0
            schedule = Schedule(parts.plan_of, before.loop)
            await dataset.set_planned(self._planned, schedule.place)
            measures = Measures(
                parts, self._target.folder, self._target.run_id, self._progress, 0, between="trainer"
            )
            await stack.enter_async_context(measures.taken(self._config.observe.every))
            stack.push_async_callback(self._break_off)
            self._stack = stack.pop_all()
        self._up = parts, dataset, measures, schedule
        self._began = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._preparing:
            self._up = None
        await self._stack.aclose()

    async def _end(self, parts: Parts, dataset: Dataset) -> None:
        """Gives the workers back, and makes shards of what there is; what is not there was broken off."""
        await parts.pool.close()
        missing = self._planned - len(await dataset.episode_ids())
        seconds = self._seconds_before + time.monotonic() - self._began
        await dataset.commit(wall_seconds=seconds, cancelled=missing)
        write_summary(self._target.folder, summarise(self._target.folder))

    @property
    def _parts(self) -> tuple[Parts, Dataset, Measures, Schedule]:
        if self._up is None:
            raise RunError("a rollout engine works inside its `async with` only")
        return self._up
