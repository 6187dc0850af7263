"""Intervals of means whose episodes share tasks, and the figures of k samples."""

import itertools

import numpy as np
import pytest

from cluster.observe.intervals import TaskValues, estimate_mean, wilson_interval
from cluster.observe.pass_rates import compute_pass_rates


def values_of(samples: dict[int, list[float]]) -> TaskValues:
    made = TaskValues()
    for task, values in samples.items():
        for value in values:
            made.add(value, task)
    return made


def test_without_samples_a_share_has_wilsons_interval() -> None:
    found = estimate_mean([1.0, 0.0, 0.0, 1.0, 1.0], list("abcde"))
    assert found is not None and (found.low, found.high) == wilson_interval(0.6, 5)
    assert estimate_mean([], []) is None and estimate_mean([float("nan")], ["a"]) is None


def test_samples_that_agree_count_as_one_and_samples_at_random_as_many() -> None:
    agree = estimate_mean([1.0] * 8 + [0.0] * 8, [n // 4 for n in range(16)])
    differ = estimate_mean([1.0, 0.0] * 8, [n // 4 for n in range(16)])
    assert agree is not None and (agree.low, agree.high) == wilson_interval(0.5, 3)
    assert differ is not None and differ.low >= wilson_interval(0.5, 4)[0]
    certain = estimate_mean([1.0] * 16, [n // 4 for n in range(16)])
    assert certain is not None and (certain.low, certain.high) == wilson_interval(1.0, 4)


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(spread: float) -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        chances = 0.5 + spread * random.choice([-1, 1], size=40)
        values = (random.random((40, 8)) < chances[:, None]).astype(float)
        found = estimate_mean(values.ravel().tolist(), np.repeat(np.arange(40), 8).tolist())
        assert found is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 400 <= 0.99


def test_pass_rates_are_the_means_over_all_choices_of_k_samples() -> None:
    samples = {0: [1.0, 0.0, 1.0, 0.2], 1: [0.0, 0.0, 0.0, 0.0], 2: [1.0, 1.0], 3: [1.5, 0.0, 1.0]}
    rows = compute_pass_rates("reward", values_of(samples))
    assert [(row.k, row.tasks) for row in rows] == [(1, 4), (2, 4), (3, 3), (4, 2)]
    for row in rows:
        own = [[value >= 1 for value in task] for task in samples.values() if len(task) >= row.k]
        choices = [list(itertools.combinations(task, row.k)) for task in own]
        for rate, holds in ((row.any_passes, any), (row.all_pass, all)):
            expected = np.mean([np.mean([holds(choice) for choice in task]) for task in choices])
            assert rate.value == pytest.approx(expected)
            assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_one_sample_of_each_task_has_no_pass_rates() -> None:
    assert compute_pass_rates("reward", values_of({0: [1.0], 1: [0.0]})) == []
    assert compute_pass_rates("reward", TaskValues()) == []
