"""One iteration of a trainer's loop: groups of rollouts, given as they end."""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cluster.dataset.advantages import Advantage
from cluster.dataset.dataset import Dataset
from cluster.dataset.sequences import Sequence, sequences_of_records
from cluster.errors import RunError, RunStopped
from workers.cancellation import run_to_end
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
        """What a trainer learns from; see `cluster.dataset.sequences`.

        Raises:
            ConfigError: Episodes have finished, and none of them has token ids.
        """
        return list(sequences_of_records(lambda: self.episodes, advantage))


class Iteration:
    """Puts an iteration's episodes on record, and groups together; the `Records` of a coordinator.

    Args:
        dataset: Where the records go.
        groups: What is to be played.
        over: Told once how many episodes are not on record when it has ended.
    """

    def __init__(
        self, dataset: Dataset, groups: list[list[EpisodeSpec]], over: Callable[[int], None]
    ) -> None:
        self._dataset = dataset
        self._sizes = {group[0].group_id: len(group) for group in groups}
        self._missing = sum(self._sizes.values())
        self._over = over
        self._finished = 0
        self._failure: str | None = None
        self._episodes: defaultdict[str, list[EpisodeRecord]] = defaultdict(list)
        self._ended: asyncio.Queue[RolloutGroup | None] = asyncio.Queue()
        self._playing: asyncio.Task[None] | None = None
        self._broken_off = False

    async def add_states(self, states: dict[str, str]) -> None:
        """Adds base environment states."""
        await self._dataset.add_states(states)

    async def append(self, result: EpisodeResult) -> None:
        """Adds an episode, and gives its group if it is the last one of it."""
        await self._dataset.append(result)
        self._missing -= 1
        self._finished += result.status == "finished"
        self._failure = result.error_message or self._failure
        episode = EpisodeRecord.model_validate_json(result.record)
        episodes = self._episodes[episode.group_id]
        episodes.append(episode)
        if len(episodes) == self._sizes[episode.group_id]:
            done = sorted(self._episodes.pop(episode.group_id), key=lambda e: e.sample_index)
            self._ended.put_nowait(RolloutGroup(episode.group_id, episode.task_id, done))

    def begin(self, play: Coroutine[Any, Any, None]) -> None:
        """Has its episodes played."""

        def ended(_: asyncio.Task[None]) -> None:
            self._over(self._missing)
            self._ended.put_nowait(None)

        self._playing = asyncio.create_task(play, name="rollouts")
        self._playing.add_done_callback(ended)

    async def groups(self) -> AsyncGenerator[RolloutGroup]:
        """The groups as they end. Leaving it early breaks off what is in flight.

        Raises:
            RunError: The rollouts cannot go on, or were broken off.
            RunStopped: One cause has failed many in a row, or none has finished.
        """
        try:
            while (group := await self._ended.get()) is not None:
                yield group
            if self._playing is not None and self._playing.cancelled():
                raise RunError(
                    "these rollouts were broken off: the engine has begun the next ones, or has ended"
                )
            if self._playing is not None:
                self._playing.result()
            if self._failure is not None and not self._finished:
                raise RunStopped(
                    f"none of these episodes has finished; the last one failed with {self._failure}"
                )
        finally:
            await self.break_off()

    async def break_off(self) -> None:
        """Ends what is in flight, and returns when it has ended. Safe to call twice, and at the same time.

        Whoever leaves an iteration's loop breaks it off, and so do the next one and the engine's end, which
        may be at once.
        """
        if self._playing is None:
            return
        if not self._broken_off:
            self._broken_off = True
            self._playing.cancel()
        await run_to_end(self._finish_playing(self._playing))

    async def _finish_playing(self, playing: asyncio.Task[None]) -> None:
        await asyncio.wait([playing])
        if not playing.cancelled():
            playing.exception()  # whoever still takes groups is told of it
