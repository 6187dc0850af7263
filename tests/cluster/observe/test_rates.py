from itertools import product
from typing import Any

import pytest

from cluster.observe.rates import ScoreRow, Scores, episode_mode, wilson_rate


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # R's prop.test(..., correct=FALSE), to four places
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (263, 949, 0.2496, 0.3065),
    ],
)
def test_interval_is_wilsons(successes: int, episodes: int, low: float, high: float):
    rate = wilson_rate(successes, episodes)
    assert (rate.value, rate.episodes) == (successes / episodes, episodes)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_interval_ends_are_where_the_share_is_as_unlikely_as_5_percent():
    for successes, episodes in product(range(8), [7, 20, 1000]):
        rate = wilson_rate(min(successes, episodes), episodes)
        for end in {rate.low, rate.high} - {0.0, 1.0}:
            deviation = abs(rate.value - end) / (end * (1 - end) / episodes) ** 0.5
            assert deviation == pytest.approx(1.959964, abs=1e-6)


def test_modes_are_told_by_their_labels():
    assert episode_mode(None, None, None, None) is None
    assert episode_mode("slack", "user_task_0", None, None) == "benign"
    assert episode_mode("slack", "user_task_0", "injection_task_1", "direct") == "attack"
    assert episode_mode("slack", None, "injection_task_1", None) == "injection"


def ended(status: str = "finished", **labels: Any) -> dict[str, Any]:
    blank = dict.fromkeys(("suite", "user_task", "injection_task", "attack"))
    return {**blank, "status": status, **labels}


def only(rows: list[ScoreRow], **labels: Any) -> ScoreRow:
    (found,) = [row for row in rows if all(getattr(row, name) == value for name, value in labels.items())]
    return found


def test_rates_are_per_suite_attack_and_injection_task():
    scores = Scores()
    pairs = product(("slack", "travel"), ("direct", "dos"), (1, 2, 10), (0, 1))
    for task, (suite, attack, number, success) in enumerate(pairs):
        pair = {"user_task": "user_task_0", "injection_task": f"injection_task_{number}"}
        metrics = {"utility": 1.0, "attack_success": float(success and number == 2)}
        scores.add(ended(suite=suite, attack=attack, **pair), metrics, task)
    rows = scores.rows()
    whole = only(rows, suite=None, attack="direct", injection_task=None)
    assert whole.utility == wilson_rate(12, 12) and whole.attack_success == wilson_rate(2, 12)
    assert only(rows, suite="slack", attack="dos", injection_task=None).attack_success == wilson_rate(1, 6)
    one = only(rows, suite="travel", attack="dos", injection_task="injection_task_2")
    assert one.attack_success == wilson_rate(1, 2)
    by_task = [row.injection_task for row in rows if row.suite == "slack" and row.attack == "dos"]
    assert by_task == [None, "injection_task_1", "injection_task_2", "injection_task_10"]


def test_utility_under_attack_is_agentdojos_and_the_papers_is_beside_it():
    """AgentDojo's runner asks whether the task was done; its paper, whether it was done and nothing else."""
    scores = Scores()
    pair = {"user_task": "user_task_0", "injection_task": "injection_task_0"}
    for task, (utility, attack_success) in enumerate(((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))):
        metrics = {"utility": utility, "attack_success": attack_success}
        scores.add(ended(suite="slack", attack="direct", **pair), metrics, task)
    scores.add(ended(suite="slack", user_task="user_task_0"), {"utility": 1.0, "attack_success": None}, 4)
    row = only(scores.rows(), mode="attack", suite="slack", injection_task=None)
    assert row.utility == wilson_rate(2, 4)
    assert row.utility_and_security == wilson_rate(1, 4)
    assert only(scores.rows(), mode="benign", suite="slack").utility_and_security is None


def test_failed_episodes_are_counted_and_in_no_rate():
    scores = Scores()
    scores.add(ended(suite="slack", user_task="user_task_0"), {"utility": 0.0}, 0)
    scores.add(ended("failed", suite="slack", user_task="user_task_0"), {"utility": 1.0}, 0)
    row = only(scores.rows(), suite="slack")
    assert (row.finished, row.failed, row.utility) == (1, 1, wilson_rate(0, 1))


def test_what_is_no_share_has_no_rate():
    scores = Scores()
    scores.add(ended(suite="own"), {"utility": 0.5}, 0)
    scores.add(ended(suite="own"), {"utility": 1.0}, 1)
    assert only(scores.rows(), suite="own").utility is None


def test_environment_without_suites_has_no_scores():
    scores = Scores()
    scores.add(ended(), {"utility": 1.0}, 0)
    assert scores.rows() == []


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_an_attack_without_an_injection_task_counts_once(status: str):
    scores = Scores()
    labels = {"suite": "slack", "user_task": "user_task_0", "injection_task": None, "attack": "direct"}
    for task in range(3):
        scores.add({**labels, "status": status}, {"utility": 1.0, "attack_success": 0.0}, task)
    assert [(row.suite, row.injection_task) for row in scores.rows()] == [(None, None), ("slack", None)]
    for row in scores.rows():
        assert row.finished + row.failed == 3
        assert row.utility is None or row.utility.episodes == 3
