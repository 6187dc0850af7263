"""Runs that are compared episode by episode."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.compare.comparison import compare_runs
from cluster.compare.statistics import bootstrap_interval, mcnemar_exact, sign_test_exact
from cluster.compare.tokens import compare_tokens
from cluster.errors import ConfigError
from tests.cluster.synthetic import episode, failed_episode, full_step, write_segment
from workers.records import EpisodeRecord


def write(folder: Path, records: list[EpisodeRecord]) -> tuple[str, Path]:
    write_segment(folder / "journal" / "000001.jsonl", records)
    (folder / "manifest.json").write_text(json.dumps({"run_id": folder.name}))
    return str(folder), folder


def scored(number: int, utility: float, **changes: Any) -> EpisodeRecord:
    metrics = json.dumps({"utility": utility, "turns": 3.0 + utility})
    return episode(number, reward=utility, metrics=metrics, **changes)


def test_two_runs_are_paired_by_episode_id(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [*(scored(n, 0.0) for n in range(8)), scored(8, 1.0), failed_episode(9)])
    second = write(tmp_path / "b", [*(scored(n, 1.0) for n in range(8)), scored(8, 0.0), scored(9, 1.0)])
    (pair,) = compare_runs([first, second])
    assert (pair.paired_by, pair.pairs, pair.failed) == ("episode_id", 10, 1)
    reward, utility, turns = pair.metrics
    assert (utility.metric, utility.pairs, utility.gained, utility.lost) == ("utility", 9, 8, 1)
    assert utility.difference == pytest.approx(7 / 9)
    assert utility.mcnemar_p == pytest.approx(2 * 10 / 2**9)
    assert utility.low <= utility.difference <= utility.high
    assert (turns.gained, turns.mcnemar_p) == (None, None)
    assert reward.first == pytest.approx(1 / 9)
    assert len(pair.changed) == 9
    assert compare_runs([first, second]) == [pair]


def test_the_same_rewards_in_another_order_are_no_change(tmp_path: Path) -> None:
    rewards = [0.1, 0.2, 0.3]  # whose sum depends on the order, in its last bit
    runs = [
        write(tmp_path / name, [scored(n, each, task_id="t", sample_index=n) for n, each in enumerate(given)])
        for name, given in (("a", rewards), ("b", rewards[::-1]))
    ]
    (pair,) = compare_runs(runs)
    assert pair.changed == []
    assert [(metric.tasks_up, metric.tasks_down) for metric in pair.metrics] == [(0, 0)] * 3


def test_runs_whose_ids_differ_are_paired_by_what_they_share(tmp_path: Path) -> None:
    def attacked(base: int, attack: str) -> list[EpisodeRecord]:
        return [
            scored(
                base + n,
                0.0,
                task_id=f"v1/banking/user_task_{n}/injection_task_1/{attack}",
                user_task=f"user_task_{n}",
                injection_task="injection_task_1",
                attack=attack,
            )
            for n in range(4)
        ]

    runs = [write(tmp_path / name, attacked(100 * n, name)) for n, name in enumerate(("direct", "dos"))]
    assert compare_runs(runs)[0].paired_by == "suite, tasks and sample_index"
    same = [write(tmp_path / str(n), [scored(10 * n, 1.0, task_id="t", suite=None)]) for n in (1, 2)]
    assert compare_runs(same)[0].paired_by == "task_id and sample_index"


def test_runs_that_share_nothing_are_refused_by_name(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a", [scored(1, 1.0)]), write(tmp_path / "b", [scored(2, 1.0)])]
    with pytest.raises(ConfigError) as raised:
        compare_runs(runs)
    assert "no episode of" in str(raised.value) and "'banking/user_task_2'" in str(raised.value)
    with pytest.raises(ConfigError, match="two runs or more"):
        compare_runs(runs[:1])


def test_the_interval_draws_whole_tasks() -> None:
    differences = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    apart = bootstrap_interval(differences, [str(n) for n in range(8)])
    together = bootstrap_interval(differences, ["a"] * 4 + ["b"] * 4)
    assert apart[0] > 0.0 and apart[1] < 1.0
    assert together == (0.0, 1.0)
    assert bootstrap_interval([0.5], ["a"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 10, 2 / 2**10), (9, 1, 22 / 2**10)]
)
def test_mcnemars_exact_test(gained: int, lost: int, p: float) -> None:
    assert math.isclose(mcnemar_exact(gained, lost), p)


@pytest.mark.parametrize(("gained", "lost"), [(3, 1), (2, 2), (0, 7), (6, 5)])
def test_exact_tests_are_what_all_outcomes_of_a_fair_coin_say(gained: int, lost: int) -> None:
    tosses = list(itertools.product((-1, 1), repeat=gained + lost))
    as_far = [toss for toss in tosses if abs(sum(toss)) >= abs(gained - lost)]
    assert math.isclose(mcnemar_exact(gained, lost), len(as_far) / len(tosses))
    assert sign_test_exact(gained, lost) == mcnemar_exact(gained, lost)


def test_the_exact_test_of_a_large_run_is_near_the_normal_one() -> None:
    gained, lost = 10_200, 9_800
    z = (gained - lost - 1) / math.sqrt(gained + lost)
    assert mcnemar_exact(gained, lost) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)


def test_the_interval_is_that_of_all_draws_of_tasks() -> None:
    differences, tasks = [0.9, -0.2, 0.4, 0.1, 0.6, 0.3, -0.5], ["a", "a", "b", "c", "c", "d", "e"]
    own = {task: [d for d, t in zip(differences, tasks, strict=True) if t == task] for task in tasks}
    draws = itertools.product(own.values(), repeat=len(own))
    means = [sum(map(sum, draw)) / sum(map(len, draw)) for draw in draws]
    exact = np.percentile(means, [2.5, 97.5])
    assert bootstrap_interval(differences, tasks) == pytest.approx(exact, abs=0.03)


def test_a_rounding_error_is_no_change_of_a_task(tmp_path: Path) -> None:
    rewards = [
        (0.1, 0.3),
        (0.2, 0.3),
        (0.3, 0.0),
    ]  # their differences, 0.2, 0.1 and -0.3 add up to 0 but for rounding

    def run(side: int) -> list[EpisodeRecord]:
        return [episode(n, task_id="t", sample_index=n, reward=pair[side]) for n, pair in enumerate(rewards)]

    (pair,) = compare_runs([write(tmp_path / "a", run(0)), write(tmp_path / "b", run(1))])
    reward = pair.metrics[0]
    assert (reward.tasks_up, reward.tasks_down, reward.sign_p, pair.changed) == (0, 0, 1.0, [])


def test_the_command_compares_three_runs(tmp_path: Path) -> None:
    runs = [write(tmp_path / str(n), [scored(k, float(k < n)) for k in range(4)])[0] for n in range(3)]
    text = CliRunner().invoke(app, ["compare", *runs]).output
    assert text.count("4 pairs of episodes, by episode_id") == 2
    found = json.loads(CliRunner().invoke(app, ["compare", *runs, "--json"]).output)
    assert [pair["metrics"][0]["difference"] for pair in found] == [0.25, 0.5]


def test_tokens_part_where_the_first_one_differs(tmp_path: Path) -> None:
    def sampled(number: int, ids: list[int], shift: float, prompt: int = 1) -> EpisodeRecord:
        step = full_step(0, True).model_copy(
            update={
                "prompt_token_ids": [prompt],
                "completion_token_ids": ids,
                "completion_logprobs": [-0.5 + shift] * len(ids),
            }
        )
        return episode(number, steps=[step])

    first = write(
        tmp_path / "a",
        [sampled(1, [7, 8, 9], 0.0), sampled(2, [7], 0.0), sampled(3, [7], 0.0), failed_episode(4)],
    )
    second = write(
        tmp_path / "b",
        [sampled(1, [7, 8, 10], 0.25), sampled(2, [7], 0.0), sampled(3, [7], 0.0, 2), failed_episode(4)],
    )
    found = compare_tokens(first, second)
    assert (found.same, found.without_tokens) == (1, 1)
    one, two, three = sorted(found.pairs, key=lambda pair: pair.first_episode)
    assert (one.shared, one.step, one.token, one.mean_logprob_gap) == (2, 0, 2, 0.25)
    assert (two.step, two.largest_logprob_gap) == (None, 0.0)
    assert (three.step, three.token, three.shared) == (0, None, 0)
    text = CliRunner().invoke(app, ["compare", first[0], second[0], "--tokens"]).output
    assert "3 pairs of episodes have token ids; of 1 all tokens are the same; 1 pairs have none" in text
    bare = write(tmp_path / "c", [failed_episode(1)])
    with pytest.raises(ConfigError, match=r"policy\.token_ids"):
        compare_tokens(bare, bare)
