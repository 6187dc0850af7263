"""Rollouts for a trainer's loop: all stays up between iterations, while the weights change."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from cluster.config import RunConfig
from cluster.config_file import load_config
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.run_folder import Target
from cluster.dataset.sequences import Advantage, Sequence, of_records
from cluster.errors import ConfigError, RunError
from cluster.observe.measures import Measures
from cluster.observe.progress import Progress
from cluster.observe.summary import summarise, write_summary
from cluster.parts import Parts, brought_up
from workers.records import EpisodeRecord, EpisodeResult, EpisodeSpec


@dataclass(frozen=True)
class RolloutGroup:
    """The rollouts of one task in one iteration, failed ones included."""

    group_id: str
    task_id: str
    episodes: list[EpisodeRecord]
    """In order of `sample_index`."""

    @property
    def mean_reward(self) -> float | None:
        """Of the finished ones; None if none has finished."""
        rewards = [episode.reward for episode in self.episodes if episode.reward is not None]
        return math.fsum(rewards) / len(rewards) if rewards else None

    def sequences(self, advantage: Advantage = "grpo") -> list[Sequence]:
        """What a trainer learns from; see `cluster.dataset.sequences`."""
        return list(of_records(lambda: self.episodes, advantage))


class RolloutEngine:
    """A policy, workers and an environment that stay up while a trainer loops.

    `async with` brings them up and ends them; what is played is a run like any other, in a folder of its
    own. It must be entered on the main thread, where verifiers builds its environment.

    Args:
        config: The run, or its YAML file. `samples` and `limit` are defaults of `rollouts`.
        out: The run's folder, or a URI. None: `<output>/<name>-<time>`.
        console: Where to tell how it goes. None: nowhere.

    Raises:
        ConfigError: The config is not right, or the folder is taken.
    """

    def __init__(
        self, config: RunConfig | Path | str, out: Path | str | None = None, console: Console | None = None
    ) -> None:
        self._config = config if isinstance(config, RunConfig) else load_config(Path(config))
        if self._config.keep is not None:
            raise ConfigError("keep: a rollout engine plays every episode; leave it out")
        self._target = Target.new(self._config, None if out is None else str(out))
        self._progress = Progress(console or Console(quiet=True))
        self._stack = AsyncExitStack()
        self._measuring = AsyncExitStack()
        self._up: tuple[Parts, Dataset, Measures] | None = None
        self._began = time.monotonic()
        self._iteration = self._next_task = self._sampled = self._planned = 0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._target.folder

    @property
    def version(self) -> int | None:
        """Version of the weights that new episodes act with."""
        return self._parts[0].policy.version

    async def rollouts(
        self, tasks: Collection[str] | int | None = None, samples: int | None = None
    ) -> AsyncGenerator[RolloutGroup]:
        """Plays one iteration; gives each group as soon as its last episode has ended and is on disk.

        Leaving the loop early breaks off what is still in flight.

        Args:
            tasks: Ids of tasks; or how many, going round and round; None: all.
            samples: Rollouts per task. None: the config's.

        Raises:
            ConfigError: There is no such task.
            RunError: The rollouts cannot go on.
        """
        parts, dataset, measures = self._parts
        groups = self._groups(parts, tasks, samples or self._config.samples)
        expected = sum(map(len, groups))
        self._planned += expected
        await dataset.set_planned(self._planned)
        ended: asyncio.Queue[RolloutGroup | None] = asyncio.Queue()
        recorder = _Recorder(dataset, groups, ended)
        measures.expect(expected)
        coordinator = Coordinator(
            self._config,
            parts.pool,
            recorder,
            measures.observers,
            self._target.run_id,
            parts.model,
            None,
            lambda: parts.policy.version,
        )
        units = groups if parts.plan.whole_groups else [[spec] for group in groups for spec in group]

        async def play() -> None:
            try:
                with self._progress.episodes(expected):
                    await coordinator.run(units, expected)
            finally:
                ended.put_nowait(None)

        playing = asyncio.create_task(play(), name="rollouts")
        try:
            while (group := await ended.get()) is not None:
                yield group
            await playing
        finally:
            playing.cancel()
            await asyncio.wait([playing])
            measures.observers.cancelled(expected - recorder.recorded)

    async def update_policy(self, path: Path | str, version: int) -> None:
        """Gives the policy new weights, and returns when all its replicas have them.

        Args:
            path: Folder of a LoRA adapter, as PEFT writes it, or of a full checkpoint, as transformers does;
                or a URI of one, `s3://…`, `gs://…`, or what else fsspec knows.
            version: Its version, above the present one.

        Raises:
            UpdateRefused: The policy does not take it; the version before keeps serving.
            PolicyUnavailable: The policy does not answer.
        """
        parts, *_ = self._parts
        await asyncio.to_thread(parts.policy.update, path, version)
        parts.pool.set_version(version)

    async def __aenter__(self) -> Self:
        parts = self._stack.enter_context(brought_up(self._config, self._target.run_id, self._progress))
        try:
            with self._progress.stage("workers"):
                await parts.pool.start(parts.plan.episodes)
            self._target.make(self._config)
            if self._target.remote is not None:
                following = self._target.remote.following(self._config.upload_seconds)
                await self._stack.enter_async_context(following)
            dataset = await Dataset.open(self._target.folder, self._target.run_id)
            measures = Measures(
                parts, self._target.folder, self._target.run_id, self._progress, 0, between="trainer"
            )
            await self._measuring.enter_async_context(measures.taken(self._config.observe.every))
            self._up = parts, dataset, measures
        except BaseException:
            await parts.pool.close()
            await self._stack.aclose()
            raise
        self._began = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        parts, dataset, _ = self._parts
        self._up = None
        try:
            await self._measuring.aclose()
            await parts.pool.close()
            await dataset.commit(wall_seconds=time.monotonic() - self._began)
            write_summary(self._target.folder, summarise(self._target.folder))
        finally:
            await dataset.close()
            await self._stack.aclose()

    @property
    def _parts(self) -> tuple[Parts, Dataset, Measures]:
        if self._up is None:
            raise RunError("a rollout engine works inside its `async with` only")
        return self._up

    def _groups(
        self, parts: Parts, tasks: Collection[str] | int | None, samples: int
    ) -> list[list[EpisodeSpec]]:
        """An iteration's groups; samples are counted on, so that each episode is another one."""
        rows = list(parts.plan.rows())
        if isinstance(tasks, int):
            chosen = [rows[(self._next_task + i) % len(rows)] for i in range(tasks)]
            self._next_task = (self._next_task + tasks) % len(rows)
        else:
            chosen = parts.plan.named(tasks) if tasks is not None else rows
        self._iteration += 1
        first, self._sampled = self._sampled, self._sampled + samples
        return [parts.plan.group(row, samples, first, f"/{self._iteration}") for row in chosen]


class _Recorder:
    """Puts episodes on record, and groups together."""

    def __init__(
        self, dataset: Dataset, groups: list[list[EpisodeSpec]], ended: "asyncio.Queue[RolloutGroup | None]"
    ) -> None:
        self._dataset = dataset
        self._sizes = {group[0].group_id: len(group) for group in groups}
        self._ended = ended
        self.recorded = 0
        self._episodes: defaultdict[str, list[EpisodeRecord]] = defaultdict(list)

    async def add_states(self, states: dict[str, str]) -> None:
        await self._dataset.add_states(states)

    async def append(self, result: EpisodeResult) -> None:
        await self._dataset.append(result)
        self.recorded += 1
        episode = EpisodeRecord.model_validate_json(result.record)
        episodes = self._episodes[episode.group_id]
        episodes.append(episode)
        if len(episodes) == self._sizes[episode.group_id]:
            done = sorted(self._episodes.pop(episode.group_id), key=lambda e: e.sample_index)
            self._ended.put_nowait(RolloutGroup(episode.group_id, episode.task_id, done))
