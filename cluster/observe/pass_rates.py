"""pass@k and pass^k: how often at least one of k samples of a task passes, and how often all of them do."""

from typing import Any

import numpy as np

from cluster.observe.intervals import TaskValues, wilson_interval
from workers.records import Record


class TaskShare(Record):
    """A mean over tasks of values from 0 to 1, with its interval."""

    value: float
    """The mean."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of it."""


class PassRate(Record):
    """What k samples of a task come to."""

    metric: str
    """What must be at least 1 for a sample to pass: `reward`, or a metric that is 0 or 1."""
    k: int
    """How many samples."""
    tasks: int
    """Tasks that have at least k finished samples; the others are in neither figure."""
    any_passes: TaskShare
    """pass@k: the probability that at least one of k samples passes."""
    all_pass: TaskShare
    """pass^k: the probability that all k samples pass."""


def compute_pass_rates(metric: str, values: TaskValues) -> list[PassRate]:
    """pass@k and pass^k for each k that a task has finished samples for; none where no task has two.

    With n samples of a task of which c pass, 1 - C(n - c, k) / C(n, k) and C(c, k) / C(n, k) are unbiased
    (M. Chen et al. 2021, arXiv:2107.03374, section 2.1; S. Yao et al. 2024, arXiv:2406.12045, section 3).
    The intervals are over tasks: a task is one independent value, however many samples it has.

    Args:
        metric: What passes at 1.
        values: Its values.
    """
    if not len(values):
        return []
    sizes, passed = values.counts()
    largest = int(sizes.max())
    if largest < 2:
        return []
    rows: list[PassRate] = []
    for k in range(1, largest + 1):
        enough = sizes >= k
        n, c = sizes[enough], passed[enough]
        rows.append(
            PassRate(
                metric=metric,
                k=k,
                tasks=int(enough.sum()),
                any_passes=_mean_over_tasks(1.0 - _share_of_choices(n - c, n, k)),
                all_pass=_mean_over_tasks(_share_of_choices(c, n, k)),
            )
        )
    return rows


def _share_of_choices(part: Any, whole: Any, k: int) -> Any:
    """C(part, k) / C(whole, k) of each task, without the large numbers in between."""
    share = np.ones(len(whole))
    for index in range(k):
        share *= np.maximum(part - index, 0) / (whole - index)
    return share


def _mean_over_tasks(values: Any) -> TaskShare:
    count, mean = len(values), float(values.mean())
    variance = float(values.var(ddof=1)) / count if count > 1 else 0.0
    low, high = wilson_interval(mean, mean * (1 - mean) / variance if variance else count)
    return TaskShare(value=mean, low=low, high=high)
