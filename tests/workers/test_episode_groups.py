"""Rollouts of a task that are scored together: each ends as a record of its own."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.dummy_episodes import ENVIRONMENT, assert_failed, task
from tests.helpers.rollouts import record, rollout_worker, spec
from workers.records import EpisodeResult
from workers.rollout_worker import RolloutWorker


@pytest.fixture(scope="module")
def scoring_groups() -> Iterator[RolloutWorker]:
    """A worker whose environment has a group reward function: rollouts of a task are scored together."""
    with rollout_worker(ENVIRONMENT, args={"groups": True}, sandbox={"call_timeout": 3.0}) as worker:
        assert worker._player._environment.needs_groups
        yield worker


def group(worker: RolloutWorker, row: dict[str, Any], size: int = 3) -> list[EpisodeResult]:
    return worker.play([spec(row) for _ in range(size)])


def test_rollouts_of_a_task_are_scored_together(scoring_groups: RolloutWorker) -> None:
    results = group(scoring_groups, task())
    assert [result.reward for result in results] == [0.5] * 3
    assert [result.metrics["above_average"] for result in results] == [0.0] * 3
    assert len({record(result).episode_id for result in results}) == 3


def test_a_group_may_be_one_rollout(scoring_groups: RolloutWorker) -> None:
    assert [result.reward for result in group(scoring_groups, task(), size=1)] == [0.5]


def test_rollout_that_fails_before_scoring_is_left_out_of_it(
    scoring_groups: RolloutWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = scoring_groups._player._environment._env  # type: ignore[attr-defined]
    respond, answered = env.env_response, iter([ZeroDivisionError("only once")])

    async def failing_once(messages: Any, state: Any, **kwargs: Any) -> Any:
        for error in answered:
            raise error
        return await respond(messages, state, **kwargs)

    monkeypatch.setattr(env, "env_response", failing_once)
    results = group(scoring_groups, task())
    assert sorted(result.status for result in results) == ["failed", "finished", "finished"]
    for result in results:
        if result.status == "failed":
            assert_failed(result, "tools", "environment", "ZeroDivisionError: only once")
        else:
            assert result.reward == 0.5


@pytest.mark.parametrize(("score", "function"), [("raise", "score"), ("raise for all", "above_average")])
def test_reward_function_that_raises_fails_the_group(
    scoring_groups: RolloutWorker, score: str, function: str
) -> None:
    for result in group(scoring_groups, task(score=score)):
        assert_failed(result, "scoring", "environment", f"reward function {function} raised ArithmeticError")
