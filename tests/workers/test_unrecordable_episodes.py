"""An episode with text in it that no file can hold, half of a surrogate pair, is one record all the same."""

from collections.abc import Iterator
from typing import Any

import pytest
import verifiers as vf

from tests.helpers.dummy_episodes import ENVIRONMENT, assert_failed, sessions, task
from tests.helpers.rollouts import record, rollout_worker, spec
from workers.records import EpisodeResult
from workers.rollout_worker import RolloutWorker

HALF = "what is \ud83d this"


@pytest.fixture(scope="module")
def worker() -> Iterator[RolloutWorker]:
    """A worker that plays the rollouts of a task together."""
    with rollout_worker(ENVIRONMENT, args={"groups": True}) as worker:
        yield worker
        assert not sessions(worker)


def group(
    worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch, answer: vf.UserMessage | Exception
) -> list[EpisodeResult]:
    """Three rollouts, of which one gets this answer, and then no other."""
    env = worker._player._environment._env  # type: ignore[attr-defined]
    respond, answers = env.env_response, iter([answer])

    async def answering_once(messages: Any, state: Any, **kwargs: Any) -> Any:
        for this in answers:
            if isinstance(this, Exception):
                raise this
            state["final_env_response"] = [this]
            return []
        return await respond(messages, state, **kwargs)

    monkeypatch.setattr(env, "env_response", answering_once)
    return worker.play([spec(task()) for _ in range(3)])


def test_an_observation_that_cannot_be_written_fails_its_episode_and_no_other_of_its_group(
    worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = group(worker, monkeypatch, vf.UserMessage(content=HALF))
    [failed] = [result for result in results if result.status == "failed"]
    assert_failed(failed, "scoring", "environment", "UnrecordableEpisode: it holds text that cannot be")
    [step] = record(failed).steps
    assert [message.content for message in step.observations] == ["what is ? this"]
    assert not step.done
    assert [result.reward for result in results if result is not failed] == [1.5, 1.5]


def test_a_failed_episode_is_on_record_with_what_it_failed_of(
    worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = group(worker, monkeypatch, ValueError(HALF))
    [failed] = [result for result in results if result.status == "failed"]
    assert_failed(failed, "tools", "environment", "ValueError: what is ? this")
    assert failed.error_message == "ValueError: what is ? this"
