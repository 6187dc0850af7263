"""Over-sampled groups: when enough of one have finished, the rest is cancelled."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.records import EpisodeSpec


@dataclass
class _GroupProgress:
    finished: int
    taken_up: int = 0
    playing: dict[str, asyncio.Future[Any]] = field(default_factory=dict[str, "asyncio.Future[Any]"])


class Groups:
    """Counts the finished episodes of each group that is being played; forgets a group when it is over.

    Args:
        keep: Episodes of a group that are wanted. None: all.
        finished: Of groups that an earlier run began: how many have finished.
    """

    def __init__(self, keep: int | None, finished: Mapping[str, int] | None = None) -> None:
        self._keep = keep
        self._before = finished or {}
        self._groups: dict[str, _GroupProgress] = {}
        self._current: str | None = None
        self.cancelled = 0
        """Episodes that were not played, or not to their end, since their group had enough."""

    def take_up(self, unit: list[EpisodeSpec]) -> bool:
        """Whether a unit is still wanted; if not, it is counted as cancelled.

        Units come group by group: with the first one of another group, this one's have all come.
        """
        if self._keep is None:
            return True
        name = unit[0].group_id
        if name != self._current:
            last, self._current = self._current, name
            self._drop_group(last)
        group = self._groups.setdefault(name, _GroupProgress(self._before.get(name, 0)))
        if group.finished >= self._keep:
            self.cancelled += len(unit)
            return False
        group.taken_up += 1
        return True

    def watch_attempt(self, unit: list[EpisodeSpec], attempt: "asyncio.Future[Any]") -> None:
        """Notes the attempt at a unit that is to be cancelled when the unit is no longer wanted."""
        if self._keep is not None:
            group = self._groups[unit[0].group_id]
            group.playing[unit[0].episode_id] = attempt
            if group.finished >= self._keep:
                attempt.cancel()

    def claim(self, spec: EpisodeSpec, finished: bool) -> bool:
        """Whether an episode that has ended goes on record; the one that fills its group ends the rest."""
        if self._keep is None:
            return True
        group = self._groups[spec.group_id]
        if group.finished >= self._keep:
            return False
        group.finished += finished
        if group.finished == self._keep:
            for episode_id, attempt in group.playing.items():
                if episode_id != spec.episode_id:
                    attempt.cancel()
        return True

    def is_full(self, unit: list[EpisodeSpec]) -> bool:
        """Whether a unit's group has enough."""
        return self._keep is not None and self._groups[unit[0].group_id].finished >= self._keep

    def finish_unit(self, unit: list[EpisodeSpec], cancelled: int) -> None:
        """Notes that a unit is over, and that so many of its episodes are not on record."""
        if self._keep is None:
            return
        self.cancelled += cancelled
        name = unit[0].group_id
        self._groups[name].playing.pop(unit[0].episode_id, None)
        self._groups[name].taken_up -= 1
        if name != self._current:
            self._drop_group(name)

    def _drop_group(self, name: str | None) -> None:
        if name in self._groups and not self._groups[name].taken_up:
            del self._groups[name]
