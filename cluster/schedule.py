"""What each iteration of a trainer's loop plays: which tasks, and which samples of them."""

from collections import Counter
from collections.abc import Collection
from itertools import chain, count, islice
from typing import Any

from cluster.errors import ConfigError
from cluster.plan import Plan, task_id_of
from workers.records import EpisodeSpec


class Schedule:
    """A plan's tasks, taken in turn, round and round; samples are counted on: each episode is another one.

    Args:
        plan: Whose tasks.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rounds = chain.from_iterable(plan.rows() for _ in count())
        self._iteration = 0
        self._sampled = 0

    def groups(self, tasks: Collection[str] | int | None, samples: int) -> list[list[EpisodeSpec]]:
        """The next iteration's groups. Reads the dataset: all of it, unless asked for so many tasks.

        Args:
            tasks: Ids of tasks, or how many, or None for all. One that comes again is another group.
            samples: Rollouts per task.

        Raises:
            ConfigError: There is no such task, or `tasks` or `samples` is nothing that can be played.
        """
        if samples < 1:
            raise ConfigError(f"samples: got {samples}; give 1 or more, or None for the config's")
        rows = self._rows(tasks)
        self._iteration += 1
        times: Counter[str] = Counter()
        groups: list[list[EpisodeSpec]] = []
        for row in rows:
            again = times[task_id_of(row)]
            times[task_id_of(row)] += 1
            suffix = f"/{self._iteration}" + (f".{again}" if again else "")
            groups.append(self._plan.group(row, samples, self._sampled + again * samples, suffix))
        self._sampled += samples * max(times.values(), default=0)
        return groups

    def _rows(self, tasks: Collection[str] | int | None) -> list[dict[str, Any]]:
        if tasks is None:
            return list(self._plan.rows())
        if isinstance(tasks, str):
            raise ConfigError(f"tasks: got the text {tasks!r}; give a list of ids, [{tasks!r}], or how many")
        if not isinstance(tasks, int):
            return self._plan.named(tasks)
        if tasks < 1:
            raise ConfigError(f"tasks: got {tasks}; give 1 or more, a list of ids, or None for all")
        return list(islice(self._rounds, tasks))
