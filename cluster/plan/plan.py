"""What a run has to play: tasks times samples, in a reproducible order, made up as it goes."""

import json
import random
import time
from collections.abc import Collection, Container, Generator, Iterator
from typing import Any, TypeVar, cast

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.plan.apart import EnvironmentApart
from cluster.plan.containers import check_container
from cluster.plan.limits import describe_left_out, limit_order
from cluster.plan.task_list import TaskList
from cluster.pool.packages import lock_packages
from cluster.pool.pythons import ensure_python
from workers.environments.base import TaskEnvironment
from workers.environments.opening import open_environment
from workers.errors import EnvironmentLoadError
from workers.records import EpisodeSpec, episode_id, info_of, label_text
from workers.settings import PackageLock

_T = TypeVar("_T")
_WINDOW = 64
"""Tasks of a shuffled order among which those with the same tools follow each other: enough for their prompts
to meet in vLLM's prefix cache, and few enough for a run's beginning to be a fair sample of its tasks."""


class Plan:
    """The episodes of a run, group by group.

    Args:
        config: What to play.
        environment: Whose tasks.
        run_id: The run.
        shuffled_by: What seeds the order where the config has no seed. None: the run's id.

    Raises:
        ConfigError: There is nothing to play, two tasks have one id, or a task's row is malformed.
    """

    def __init__(
        self,
        config: RunConfig,
        environment: TaskEnvironment,
        run_id: str,
        shuffled_by: str | None = None,
    ) -> None:
        self._config = config
        self._rows = environment.rows()
        self._run_id = run_id
        self.shuffled_by = shuffled_by
        self.whole_groups = environment.needs_groups
        if config.keep is not None and self.whole_groups:
            raise ConfigError(
                f"keep: {config.environment.id} scores the episodes of a group together, so none of them can "
                "be cancelled; leave it out"
            )
        order = list(range(len(self._rows)))
        if config.shuffle:
            seed = (shuffled_by or run_id) if config.seed is None else config.seed
            random.Random(seed).shuffle(order)
        if config.limit is not None:
            order = limit_order(self._rows, order, config.limit, config.limit_by)
        self._order = order
        if not self._order:
            raise ConfigError("environment.args: they select no task at all")
        self.left_out = describe_left_out(self._rows, order, config.limit)
        """What `limit` left out, in words. None: nothing."""
        self.task_list = self._read_tasks()
        """Ids of the tasks, and what tells whether they are the same ones as before."""

    def _read_tasks(self) -> TaskList:
        """Reads every task once. Episodes are told apart by their task's id, so two must not share one."""
        tasks = TaskList()
        seen: set[str] = set()
        for index in self._order:
            row = self._rows[index]
            _check_row_info(row, index, self._config.environment.id)
            task_id = row_task_id(row)
            if task_id in seen:
                raise ConfigError(
                    f"environment.id: two tasks of {self._config.environment.id} have the id {task_id!r}; "
                    "give each an `info.task_id` of its own, or none at all, to have them numbered"
                )
            seen.add(task_id)
            tasks.add(task_id, row)
        return tasks

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
        for rows in self._iterate_windows():
            yield from rows

    def _iterate_windows(self) -> Iterator[Iterator[dict[str, Any]]]:
        """The tasks, so many at a time; rows are read when a window is gone through."""
        for start in range(0, len(self._order), _WINDOW):
            yield self._read_window(start)

    def _read_window(self, start: int) -> Iterator[dict[str, Any]]:
        rows = [dict(self._rows[index]) for index in self._order[start : start + _WINDOW]]
        yield from _order_by_tools(rows) if self._config.shuffle else rows

    def named(self, task_ids: Collection[str]) -> list[dict[str, Any]]:
        """The tasks of these ids.

        Raises:
            ConfigError: There is no such task.
        """
        wanted = set(task_ids)
        by_id = {task_id: row for row in self.rows() if (task_id := row_task_id(row)) in wanted}
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
        return (unit for unit in self.units_in_turns(done) if unit is not None)

    def units_in_turns(self, done: Container[str] = ()) -> Iterator[list[EpisodeSpec] | None]:
        """The same, with a None now and then: a turn for others, while tasks that are done are passed over.

        The rows of tasks that are done are not read.
        """
        ids = self.task_list.ids(_WINDOW)
        for rows in self._iterate_windows():
            names = next(ids)
            if all(episode in done for task_id in names for episode in self._episode_ids(task_id)):
                yield None
                continue
            for row in rows:
                group = self._make_group(row)
                missing = [spec for spec in group if spec.episode_id not in done]
                if self.whole_groups:
                    yield from [group] if missing else []
                else:
                    yield from ([spec] for spec in missing)
            yield None

    def replayed(self, done: Collection[str]) -> set[str]:
        """Those of the done episodes that `units` has played again, since their group is not whole."""
        return run_all_turns(self.replayed_in_turns(done))

    def replayed_in_turns(self, done: Collection[str]) -> Generator[None, None, set[str]]:
        """The same, with turns for others."""
        again: set[str] = set()
        if not (self.whole_groups and done):
            return again
        for names in self.task_list.ids(_WINDOW):
            for task_id in names:
                group = self._episode_ids(task_id)
                there = [episode for episode in group if episode in done]
                if len(there) < len(group):
                    again.update(there)
            yield
        return again

    def begun(self, finished: Collection[str]) -> tuple[dict[str, int], set[str]]:
        """What an earlier run has left of over-sampled groups.

        Args:
            finished: Ids of the episodes that have finished.

        Returns:
            Of each group that has begun and has not enough: how many have finished. And the ids of those
            other episodes whose group has enough without them.
        """
        return run_all_turns(self.begun_in_turns(finished))

    def begun_in_turns(
        self, finished: Collection[str]
    ) -> Generator[None, None, tuple[dict[str, int], set[str]]]:
        """The same, with turns for others. No row is read for it."""
        counts: dict[str, int] = {}
        surplus: set[str] = set()
        keep = self._config.keep
        if keep is None or not finished:
            return counts, surplus
        for names in self.task_list.ids(_WINDOW):
            for task_id in names:
                group = self._episode_ids(task_id)
                others = [episode for episode in group if episode not in finished]
                count = len(group) - len(others)
                if count >= keep:
                    surplus.update(others)
                elif count:
                    counts[self._group_id(task_id)] = count
            yield
        return counts, surplus

    def _episode_ids(self, task_id: str) -> list[str]:
        scope = self._config.environment.scope
        return [episode_id(scope, task_id, sample) for sample in range(self._config.samples)]

    def _group_id(self, task_id: str) -> str:
        return f"{self._run_id}/{task_id}"

    def _make_group(self, row: dict[str, Any]) -> list[EpisodeSpec]:
        return self.group(row, self._config.samples)

    def group(self, row: dict[str, Any], samples: int, first: int = 0, suffix: str = "") -> list[EpisodeSpec]:
        """The episodes of one task.

        Args:
            row: The task.
            samples: How many.
            first: `sample_index` of the first.
            suffix: Tells the group from others of the same task.
        """
        task_id = row_task_id(row)
        environment = self._config.environment
        return [
            EpisodeSpec(
                episode_id=episode_id(environment.scope, task_id, sample),
                task_id=task_id,
                group_id=self._group_id(task_id) + suffix,
                sample_index=sample,
                split=environment.split,
                row=row,
                dispatched_at=time.time(),
            )
            for sample in range(first, first + samples)
        ]


def load_plan(
    config: RunConfig,
    run_id: str,
    shuffled_by: str | None = None,
    packages: PackageLock | None = None,
    forks: bool = False,
) -> tuple[TaskEnvironment, Plan]:
    """The environment that a config names, and what there is to play in it.

    Args:
        config: The run's.
        run_id: The run.
        shuffled_by: See `Plan`.
        packages: What `environment.requirements` come to. None: they are resolved here, if there are any.
        forks: See `EnvironmentApart`.

    Raises:
        ConfigError: The environment does not load, or there is nothing to play.
        RunError: Its packages cannot be installed.
    """
    policy: str = getattr(config.policy, "model", config.policy.kind)
    try:
        environment = _open_environment(config, policy, packages or lock_packages(config.environment), forks)
        check_seat_policies(config, environment)
        check_container(config, environment)
        return environment, Plan(config, environment, run_id, shuffled_by)
    except EnvironmentLoadError as error:
        raise ConfigError(str(error)) from error


def _open_environment(
    config: RunConfig, policy: str, packages: PackageLock | None, forks: bool
) -> TaskEnvironment:
    """The environment, in this process, or in one with its own packages."""
    timeout = config.episode.timeout
    if packages is None:
        return open_environment(config.environment, policy=policy, episode_timeout=timeout)
    return EnvironmentApart(config.environment, ensure_python(packages), policy, timeout, forks)


def check_seat_policies(config: RunConfig, environment: TaskEnvironment) -> None:
    """Sees that `policies` has those that the environment's agents ask for, and no other.

    Raises:
        ConfigError: One is missing, or one is not asked for.
    """
    asked = environment.seat_policies
    known = f"`policies` has {', '.join(config.policies)}" if config.policies else "there are no `policies`"
    for key, name in asked.items():
        if name not in config.policies:
            raise ConfigError(
                f"environment.args.{key}: got {name!r}, which must be a name under `policies`, and {known}; "
                "leave it out for `policy` to play"
            )
    for name in config.policies:
        if name not in asked.values():
            raise ConfigError(
                f"policies.{name}: no agent of {config.environment.id} asks for it; name it as "
                "environment.args.AGENT.model, or leave it out"
            )


def _order_by_tools(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows, those with the same tools after each other, in the order in which either comes first."""
    together: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault(_tools_key(row), []).append(row)
    for same in together.values():
        yield from same


def _tools_key(row: dict[str, Any]) -> str:
    """The key by which a row tells a task's tools from others': AgentDojo's suite, or the tools."""
    info = info_of(row)
    return str(info.get("suite") or info.get("tool_defs") or info.get("oai_tools") or row.get("task"))


def row_task_id(row: dict[str, Any]) -> str:
    """The task's own id where its row names one, else its number in the dataset."""
    named = [row_.get("task_id") for row_ in (info_of(row), row)]
    given = next((each for each in named if each is not None and each != ""), row.get("example_id"))
    return label_text(given) or ""


def _check_row_info(row: dict[str, Any], index: int, environment: str) -> None:
    """Sees that a row's `info` is an object, or the text of one, as verifiers has it.

    Raises:
        ConfigError: It is something else.
    """
    given: Any = row.get("info")
    try:
        info: Any = json.loads(given) if isinstance(given, str) else given or {}
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise ConfigError(
            f"environment.id: `info` of row {index} of {environment}'s dataset is {_shorten(given)}; give a "
            "dictionary, or the text of a JSON object, such as {}"
        )


def _shorten(value: Any) -> str:
    text = repr(value)
    kind = "the text" if isinstance(value, str) else f"of type {type(value).__name__},"
    return f"{kind} {text if len(text) <= 80 else text[:79] + '…'}"


def run_all_turns(work: Generator[None, None, _T]) -> _T:
    """Runs work in turns at once, and returns its result, where nothing else needs a turn."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(_T, end.value)
