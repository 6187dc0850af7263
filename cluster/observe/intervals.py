"""Means with 95 % intervals that take episodes of one task as dependent."""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.records import Record

NORMAL_QUANTILE = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % on either side."""


class Estimate(Record):
    """A mean over episodes, with its interval."""

    value: float
    """The mean."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of it."""
    episodes: int
    """Episodes that it is a mean of."""
    tasks: int
    """Tasks that these are of."""


class TaskValues:
    """Values of episodes, each with its task; 12 bytes for each."""

    def __init__(self) -> None:
        self._values = array("d")
        self._tasks = array("i")

    def add(self, value: float | None, task: int) -> None:
        """Adds an episode's value, unless it is null.

        Args:
            value: The value.
            task: The number of the episode's task.
        """
        if value is not None:
            self._values.append(value)
            self._tasks.append(task)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_share(self) -> bool:
        """Whether each value is 0 or 1."""
        return bool(np.isin(self._values, (0.0, 1.0)).all())

    def estimate(self) -> Estimate | None:
        """The mean and its interval. None where there is no value."""
        return estimate_mean(self._values, self._tasks)

    def counts(self, at_least: float = 1.0) -> tuple[Any, Any]:
        """Of each task: how many values it has, and how many of them are at least so much."""
        index = np.unique(np.asarray(self._tasks), return_inverse=True)[1]
        passed = np.asarray(self._values) >= at_least
        return np.bincount(index), np.bincount(index, weights=passed).astype(np.int64)


def estimate_mean(values: Sequence[float], tasks: Sequence[Any]) -> Estimate | None:
    """The mean of episodes' values with its 95 % interval, robust to what the samples of a task share.

    The variance is that of a ratio of sums over tasks: sum_t (y_t - m n_t)^2 T / (T - 1) / N^2, for T tasks
    with n_t of N episodes and sums y_t (W. G. Cochran, "Sampling Techniques", 3rd edition, 1977, chapter 6).
    Where all values are 0 or 1, the interval is Wilson's for the number of independent episodes that has this
    variance (E. L. Korn, B. I. Graubard, Survey Methodology 24 (1998), 193-201), which is never more than N
    and is N where no task has two episodes. Otherwise it is the normal one.

    Args:
        values: Of each episode; those that are not finite are passed over.
        tasks: Of each episode: its task.

    Returns:
        The estimate. None where there is no finite value.
    """
    numbers = np.asarray(values, dtype=np.float64)
    is_finite = np.isfinite(numbers)
    numbers, names = numbers[is_finite], np.asarray(tasks)[is_finite]
    count = int(numbers.size)
    if not count:
        return None
    index = np.unique(names, return_inverse=True)[1]
    sizes, sums = np.bincount(index).astype(np.float64), np.bincount(index, weights=numbers)
    clusters = int(sizes.size)
    mean = float(numbers.mean())
    residuals = float(((sums - mean * sizes) ** 2).sum())
    variance = residuals * clusters / (clusters - 1) / count**2 if clusters > 1 else None
    if np.isin(numbers, (0.0, 1.0)).all():
        low, high = wilson_interval(mean, _effective_count(mean, variance, count, clusters))
    else:
        half = NORMAL_QUANTILE * math.sqrt(variance or 0.0)
        low, high = mean - half, mean + half
    return Estimate(value=mean, low=low, high=high, episodes=count, tasks=clusters)


def _effective_count(share: float, variance: float | None, count: int, clusters: int) -> float:
    """Independent episodes that tell as much as these do."""
    if count == clusters:
        return count
    if not variance or not 0 < share < 1:
        return clusters
    return min(float(count), share * (1 - share) / variance)


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """The 95 % score interval of a share.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22 (1927), 209-212.

    Args:
        share: The share.
        count: The independent episodes that it is of; no whole number where they are not independent.
    """
    z2 = NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_QUANTILE * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    low = centre - half if share > 0 else 0.0  # which it is, but for rounding
    high = centre + half if share < 1 else 1.0
    return max(0.0, low), min(1.0, high)
