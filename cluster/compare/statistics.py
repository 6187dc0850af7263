"""What a paired comparison needs: a clustered bootstrap interval, and McNemar's exact test."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_RESAMPLES = 10_000
_SEED = 0
_ROUNDING = 1e-9
"""A sum of differences of rewards that is not further from 0 is one."""
_CELLS = 4_000_000
"""Draws that are held in memory at once."""


def bootstrap_interval(differences: Sequence[float], clusters: Sequence[str]) -> tuple[float, float]:
    """The percentile 95 % interval of a mean difference; the same numbers give the same interval.

    Whole clusters are drawn, since several samples of one task are not independent.
    Source: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13.

    Args:
        differences: Of each pair.
        clusters: Of each pair: its task.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(differences, dtype=np.float64))
    counts = np.bincount(index).astype(np.float64)
    random = np.random.default_rng(_SEED)
    means: list[Any] = []
    rows = max(1, _CELLS // len(names))
    for start in range(0, _RESAMPLES, rows):
        drawn = random.integers(0, len(names), size=(min(rows, _RESAMPLES - start), len(names)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def mcnemar_exact(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: that of a fair coin for the pairs that differ.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), 153-157; exact by the binomial distribution.

    Args:
        gained: Pairs with 0 in the first run and 1 in the second.
        lost: Pairs with 1 in the first run and 0 in the second.
    """
    total, fewer = gained + lost, min(gained, lost)
    tail = term = 1
    for k in range(fewer):  # each binomial coefficient from the one before: computed anew, they take minutes
        term = term * (total - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)


def count_changes(differences: Iterable[float]) -> tuple[int, int]:
    """How many differences are above 0, and how many below; a rounding error is neither."""
    up = down = 0
    for value in differences:
        up += value > _ROUNDING
        down += value < -_ROUNDING
    return up, down


def sign_test_exact(up: int, down: int) -> float:
    """The two-sided p-value of the exact sign test: that of a fair coin for the tasks that changed.

    Source: W. J. Dixon, A. M. Mood, "The statistical sign test", Journal of the American Statistical
    Association 41 (1946), 557-566. It is McNemar's with tasks in place of pairs.

    Args:
        up: Tasks with a larger mean in the second run.
        down: Tasks with a smaller one.
    """
    return mcnemar_exact(up, down)
