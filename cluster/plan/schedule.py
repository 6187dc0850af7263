"""What each iteration of a trainer's loop plays: which tasks, and which samples of them."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import chain, count, islice
from typing import Any, get_args

from cluster.dataset.manifest import LoopPlace
from cluster.errors import ConfigError
from cluster.plan.plan import Plan, row_task_id
from workers.records import EpisodeSpec
from workers.settings import SamplingSettings, Split


class Schedule:
    """Tasks, taken in turn, round and round; samples are counted on, so that each episode is another one.

    Args:
        plan_of: Gives the plan of a split.
        place: How far an earlier loop had come.
    """

    def __init__(self, plan_of: Callable[[Split], Plan], place: LoopPlace | None = None) -> None:
        self._plan_of = plan_of
        self.place = place or LoopPlace()
        """How far it has come."""
        self._plans: dict[Split, Plan] = {}
        self._rounds: dict[Split, Iterator[dict[str, Any]]] = {}

    def groups(
        self,
        tasks: Collection[str] | int | None,
        samples: int,
        split: Split,
        sampling: SamplingSettings | None = None,
    ) -> list[list[EpisodeSpec]]:
        """The next iteration's groups. Reads the dataset: all of it, unless asked for so many tasks.

        Args:
            tasks: Ids of tasks, or how many, or None for all. One that comes again is another group.
            samples: Rollouts per task.
            split: Whose tasks.
            sampling: How actions are sampled. None: as the config says.

        Raises:
            ConfigError: There is no such task or split, or no such number of them.
        """
        if samples < 1:
            raise ConfigError(f"samples: got {samples}; give 1 or more, or None for the config's")
        plan = self.plan(split)
        rows = self._take_rows(tasks, split)
        place = self.place
        iteration = place.iteration + 1
        times: Counter[str] = Counter()
        groups: list[list[EpisodeSpec]] = []
        for row in rows:
            again = times[row_task_id(row)]
            times[row_task_id(row)] += 1
            suffix = f"/{iteration}" + (f".{again}" if again else "")
            group = plan.group(row, samples, place.sampled + again * samples, suffix)
            groups.append([spec.model_copy(update={"sampling": sampling}) for spec in group])
        taken = len(rows) if isinstance(tasks, int) else 0
        self.place = LoopPlace(
            iteration=iteration,
            sampled=place.sampled + samples * max(times.values(), default=0),
            next_task={**place.next_task, split: (place.next_task.get(split, 0) + taken) % plan.tasks},
        )
        return groups

    def return_to(self, place: LoopPlace) -> None:
        """Takes back what `groups` gave since the loop was at this place, for it was not played."""
        self.place = place
        self._rounds.clear()

    def plan(self, split: Split) -> Plan:
        """The plan of a split; made when it is first asked for."""
        if split not in get_args(Split):
            raise ConfigError(f"split: got {split!r}; it must be one of {', '.join(get_args(Split))}")
        if split not in self._plans:
            self._plans[split] = self._plan_of(split)
        return self._plans[split]

    def _cycle_tasks(self, split: Split) -> Iterator[dict[str, Any]]:
        """The tasks of a split from the one that comes next, again and again."""
        if split not in self._rounds:
            plan = self.plan(split)
            rounds = chain.from_iterable(plan.rows() for _ in count())
            self._rounds[split] = islice(rounds, self.place.next_task.get(split, 0), None)
        return self._rounds[split]

    def _take_rows(self, tasks: Collection[str] | int | None, split: Split) -> list[dict[str, Any]]:
        if tasks is None:
            return list(self.plan(split).rows())
        if isinstance(tasks, str):
            raise ConfigError(f"tasks: got the text {tasks!r}; give a list of ids, [{tasks!r}], or how many")
        if not isinstance(tasks, int):
            return self.plan(split).named(tasks)
        if tasks < 1:
            raise ConfigError(f"tasks: got {tasks}; give 1 or more, a list of ids, or None for all")
        return list(islice(self._cycle_tasks(split), tasks))
