"""`kumite compare`: two or more runs of the same tasks, paired episode by episode."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from cluster.compare.pairs import LoadedRun, Row, load_rows, pair_episodes
from cluster.compare.statistics import bootstrap_interval, count_changes, mcnemar_exact, sign_test_exact
from cluster.errors import ConfigError
from workers.records import Record

_MAX_CHANGES = 10
"""Tasks that are named as those that changed most."""


class MetricDifference(Record):
    """One metric in two runs."""

    metric: str
    """`reward`, or the metric's name."""
    pairs: int
    """Pairs in which both episodes have it."""
    first: float
    """Its mean in the first run."""
    second: float
    """Its mean in the other run."""
    difference: float
    """The other run's mean less the first one's."""
    low: float
    """Lower end of the difference's 95 % interval, by a bootstrap over tasks."""
    high: float
    """Upper end of it."""
    gained: int | None
    """Of a metric that is 0 or 1: pairs that went from 0 to 1. Null for others."""
    lost: int | None
    """Pairs that went from 1 to 0."""
    mcnemar_p: float | None
    """p-value of McNemar's exact test. It takes pairs as independent: with several samples of a task, go by
    the interval, or by `sign_p`."""
    tasks_up: int = 0
    """Tasks whose mean over their pairs is larger in the other run."""
    tasks_down: int = 0
    """Tasks whose mean is smaller there."""
    sign_p: float = 1.0
    """p-value of the exact sign test over tasks, of which each counts once, whatever its samples."""


class TaskChange(Record):
    """A task whose mean reward changed."""

    task_id: str
    """The task, as the first run has it."""
    first: float
    """Its mean reward in the first run."""
    second: float
    """Its mean reward in the other run."""
    difference: float
    """The second less the first."""


class RunPair(Record):
    """The first run beside another one."""

    first: str
    """The first run."""
    second: str
    """The other run."""
    paired_by: str
    """What pairs their episodes."""
    pairs: int
    """Pairs of episodes."""
    only_first: int
    """Episodes of the first run that have no like in the other one."""
    only_second: int
    """Episodes of the other run that have no like in the first one."""
    failed: int
    """Pairs of which an episode failed: they are in no mean."""
    samples_per_task: bool
    """Whether there are several pairs of a task."""
    metrics: list[MetricDifference] = Field(default_factory=list[MetricDifference])
    """The reward, then the metrics."""
    changed: list[TaskChange] = Field(default_factory=list[TaskChange])
    """The tasks whose reward changed most, at most 10."""


def compare_runs(runs: Sequence[tuple[str, Path]]) -> list[RunPair]:
    """Each run beside the first one.

    Args:
        runs: Names and folders, two at least.

    Raises:
        ConfigError: There are fewer than two runs, or two of them have no episode in common.
        ManifestError: A folder holds no run.
    """
    if len(runs) < 2:
        raise ConfigError("compare: give two runs or more: `kumite compare RUN_A RUN_B`")
    first, *others = [load_rows(name, folder) for name, folder in runs]
    return [compare_loaded(first, other)[0] for other in others]


def compare_loaded(first: LoadedRun, second: LoadedRun) -> tuple[RunPair, list[tuple[Row, Row]]]:
    """A run beside the first one, and the pairs of their episodes.

    Raises:
        ConfigError: They have no episode in common.
    """
    paired_by, pairs = pair_episodes(first, second)
    return _compare_pairs(first, second, paired_by, pairs), pairs


def _compare_pairs(
    first: LoadedRun, second: LoadedRun, paired_by: str, pairs: list[tuple[Row, Row]]
) -> RunPair:
    finished = [(a, b) for a, b in pairs if a["status"] == b["status"] == "finished"]
    tasks = [a["task_id"] for a, _ in pairs]
    return RunPair(
        first=first.name,
        second=second.name,
        paired_by=paired_by,
        pairs=len(pairs),
        only_first=len(first.rows) - len(pairs),
        only_second=len(second.rows) - len(pairs),
        failed=len(pairs) - len(finished),
        samples_per_task=len(set(tasks)) < len(tasks),
        metrics=[found for name in _metric_names(finished) if (found := _metric_difference(name, finished))],
        changed=_task_changes(finished),
    )


def _metric_names(pairs: list[tuple[Row, Row]]) -> list[str]:
    return list(
        dict.fromkeys(["reward", *(name for rows in pairs for row in rows for name in row["metrics"])])
    )


def _metric_value(row: Row, name: str) -> float | None:
    return row["reward"] if name == "reward" else row["metrics"].get(name)


def _metric_difference(name: str, pairs: list[tuple[Row, Row]]) -> MetricDifference | None:
    held = [(_metric_value(a, name), _metric_value(b, name), a["task_id"]) for a, b in pairs]
    values = [(a, b, task) for a, b, task in held if a is not None and b is not None]
    if not values:
        return None
    differences = [b - a for a, b, _ in values]
    low, high = bootstrap_interval(differences, [task for *_, task in values])
    is_binary = all(value in (0, 1) for a, b, _ in values for value in (a, b))
    gained, lost = count_changes(differences)
    by_task: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for a, b, task in values:
        by_task[task].append((a, b))
    changes = [_task_mean(b for _, b in each) - _task_mean(a for a, _ in each) for each in by_task.values()]
    up, down = count_changes(changes)
    return MetricDifference(
        metric=name,
        pairs=len(values),
        first=sum(a for a, _, _ in values) / len(values),
        second=sum(b for _, b, _ in values) / len(values),
        difference=sum(differences) / len(values),
        low=low,
        high=high,
        gained=gained if is_binary else None,
        lost=lost if is_binary else None,
        mcnemar_p=mcnemar_exact(gained, lost) if is_binary else None,
        tasks_up=up,
        tasks_down=down,
        sign_p=sign_test_exact(up, down),
    )


def _task_mean(values: Iterable[float]) -> float:
    """A mean that does not depend on the order of the samples: the same rewards are no change."""
    held = list(values)
    return math.fsum(held) / len(held)


def _task_changes(pairs: list[tuple[Row, Row]]) -> list[TaskChange]:
    rewards: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for a, b in pairs:
        if a["reward"] is not None and b["reward"] is not None:
            rewards[a["task_id"]].append((a["reward"], b["reward"]))
    changes: list[TaskChange] = []
    for task, values in rewards.items():
        first, second = (_task_mean(each) for each in zip(*values, strict=True))
        if any(count_changes([second - first])):
            changes.append(TaskChange(task_id=task, first=first, second=second, difference=second - first))
    return sorted(changes, key=lambda change: (-abs(change.difference), change.task_id))[:_MAX_CHANGES]
