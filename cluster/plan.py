"""What a run has to play: tasks times samples, in a reproducible order, made up as it goes."""

import json
import random
import time
from collections.abc import Collection, Container, Iterator
from typing import Any

from cluster.config import RunConfig
from cluster.errors import ConfigError
from workers.environments.base import RolloutEnvironment
from workers.environments.classic import ClassicEnvironment
from workers.errors import EnvironmentLoadError
from workers.records import EpisodeSpec, episode_id, info_of, label_text

_WINDOW = 64
"""Tasks of a shuffled order among which those with the same tools follow each other: enough for their prompts
to meet in vLLM's prefix cache, and few enough for a run's beginning to be a fair sample of its tasks."""


class Plan:
    """The episodes of a run, group by group.

    Args:
        config: What to play.
        environment: Whose tasks.
        run_id: The run.

    Raises:
        ConfigError: There is nothing to play, or two tasks have one id.
    """

    def __init__(self, config: RunConfig, environment: RolloutEnvironment, run_id: str) -> None:
        self._config = config
        self._rows = environment.rows()
        self._run_id = run_id
        self.whole_groups = environment.needs_groups
        if config.keep is not None and self.whole_groups:
            raise ConfigError(
                f"keep: {config.environment.id} scores the episodes of a group together, so none of them can "
                "be cancelled; leave it out"
            )
        order = list(range(len(self._rows)))
        if config.shuffle:
            random.Random(run_id if config.seed is None else config.seed).shuffle(order)
        self._order = order[: config.limit]
        if not self._order:
            raise ConfigError("environment.args: they select no task at all")
        self._check_ids()

    def _check_ids(self) -> None:
        """Episodes are told apart by their task's id, so two tasks must not share one."""
        seen: set[str] = set()
        for index in self._order:
            row = self._rows[index]
            _check_info(row, index, self._config.environment.id)
            task_id = task_id_of(row)
            if task_id in seen:
                raise ConfigError(
                    f"environment.id: two tasks of {self._config.environment.id} have the id {task_id!r}; "
                    "give each an `info.task_id` of its own, or none at all, to have them numbered"
                )
            seen.add(task_id)

    @property
    def tasks(self) -> int:
        """How many tasks."""
        return len(self._order)

    @property
    def episodes(self) -> int:
        """How many episodes."""
        return len(self._order) * self._config.samples

    def rows(self) -> Iterator[dict[str, Any]]:
        """The tasks, in the order in which they are played, as verifiers' `RolloutInput`s."""
        for start in range(0, len(self._order), _WINDOW):
            rows = [dict(self._rows[index]) for index in self._order[start : start + _WINDOW]]
            yield from _by_tools(rows) if self._config.shuffle else rows

    def named(self, task_ids: Collection[str]) -> list[dict[str, Any]]:
        """The tasks of these ids.

        Raises:
            ConfigError: There is no such task.
        """
        wanted = set(task_ids)
        by_id = {task_id: row for row in self.rows() if (task_id := task_id_of(row)) in wanted}
        unknown = [task_id for task_id in task_ids if task_id not in by_id]
        if unknown:
            limit = self._config.limit
            first = f"the first {limit} of " if limit is not None else ""
            raise ConfigError(
                f"tasks: there is no task {unknown[0]!r} in {first}{self._config.environment.id}"
                + (" (limit)" if first else "")
            )
        return [by_id[task_id] for task_id in task_ids]

    def units(self, done: Container[str] = ()) -> Iterator[list[EpisodeSpec]]:
        """What a worker takes at once: an episode, or a group where the environment scores groups.

        Args:
            done: Ids of episodes that need not be played. A group of which one is missing is played whole.
        """
        for row in self.rows():
            group = self._group(row)
            missing = [spec for spec in group if spec.episode_id not in done]
            if self.whole_groups:
                yield from [group] if missing else []
            else:
                yield from ([spec] for spec in missing)

    def replayed(self, done: Collection[str]) -> set[str]:
        """Those of the done episodes that `units` has played again, since their group is not whole."""
        if not (self.whole_groups and done):
            return set()
        return {spec.episode_id for unit in self.units(done) for spec in unit if spec.episode_id in done}

    def begun(self, finished: Container[str]) -> tuple[dict[str, int], set[str]]:
        """What an earlier run has left of over-sampled groups.

        Args:
            finished: Ids of the episodes that have finished.

        Returns:
            Of each group that has begun and has not enough: how many have finished. And the ids of those
            other episodes whose group has enough without them.
        """
        counts: dict[str, int] = {}
        surplus: set[str] = set()
        keep = self._config.keep
        for row in self.rows() if keep is not None else ():
            group = self._group(row)
            others = [spec.episode_id for spec in group if spec.episode_id not in finished]
            count = len(group) - len(others)
            if keep is not None and count >= keep:
                surplus.update(others)
            elif count:
                counts[group[0].group_id] = count
        return counts, surplus

    def _group(self, row: dict[str, Any]) -> list[EpisodeSpec]:
        return self.group(row, self._config.samples)

    def group(self, row: dict[str, Any], samples: int, first: int = 0, suffix: str = "") -> list[EpisodeSpec]:
        """The episodes of one task.

        Args:
            row: The task.
            samples: How many.
            first: `sample_index` of the first.
            suffix: Tells the group from others of the same task.
        """
        task_id = task_id_of(row)
        environment = self._config.environment
        return [
            EpisodeSpec(
                episode_id=episode_id(environment.scope, task_id, sample),
                task_id=task_id,
                group_id=f"{self._run_id}/{task_id}{suffix}",
                sample_index=sample,
                split=environment.split,
                row=row,
                dispatched_at=time.time(),
            )
            for sample in range(first, first + samples)
        ]


def load_plan(config: RunConfig, run_id: str) -> tuple[ClassicEnvironment, Plan]:
    """The environment that a config names, and what there is to play in it.

    Raises:
        ConfigError: The environment does not load, or there is nothing to play.
    """
    policy: str = getattr(config.policy, "model", config.policy.kind)
    try:
        environment = ClassicEnvironment(
            config.environment, policy=policy, episode_timeout=config.episode.timeout
        )
        return environment, Plan(config, environment, run_id)
    except EnvironmentLoadError as error:
        raise ConfigError(str(error)) from error


def _check_info(row: dict[str, Any], index: int, environment: str) -> None:
    """Sees that what verifiers will read as JSON is JSON.

    Raises:
        ConfigError: It is not.
    """
    info = row.get("info")
    if isinstance(info, str):
        try:
            json.loads(info)
        except ValueError as error:
            raise ConfigError(
                f"environment.id: `info` of row {index} of {environment} is {info[:60]!r}, which is no JSON "
                f"({error}); give a mapping, or JSON text of one"
            ) from error


def _by_tools(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows, those with the same tools after each other, in the order in which either comes first."""
    together: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault(_tools_of(row), []).append(row)
    for same in together.values():
        yield from same


def _tools_of(row: dict[str, Any]) -> str:
    """What tells a task's tools from others', as far as its row does: AgentDojo's suite, or the tools."""
    info = info_of(row)
    return str(info.get("suite") or info.get("tool_defs") or info.get("oai_tools") or row.get("task"))


def task_id_of(row: dict[str, Any]) -> str:
    """The task's own id where its row names one, else its number in the dataset."""
    named = [row_.get("task_id") for row_ in (info_of(row), row)]
    given = next((each for each in named if each is not None and each != ""), row.get("example_id"))
    return label_text(given) or ""
