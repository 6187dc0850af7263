"""Whatever happens in an episode, it ends as exactly one record that says so."""

import asyncio
import concurrent.futures
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import jsonpatch
import pytest

from tests.helpers.dummy_episodes import ENVIRONMENT, GOOD, assert_failed, one, put, sessions, task, turn
from tests.helpers.rollouts import played, record, rollout_worker, spec, usual_pool
from tests.helpers.sandboxes import children, is_alive
from workers.errors import SandboxStartError
from workers.rollout_worker import RolloutWorker


@pytest.fixture(scope="module")
def worker() -> Iterator[RolloutWorker]:
    with rollout_worker(ENVIRONMENT, sandbox={"call_timeout": 3.0}) as worker:
        yield worker


@pytest.fixture(autouse=True)
def no_session_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "worker" in request.fixturenames:
        assert sessions(request.getfixturevalue("worker")) == set()


def test_finished_episode_says_what_it_came_to(worker: RolloutWorker) -> None:
    result = one(worker, task())
    episode = record(result)
    assert (result.status, result.failure, result.reward) == ("finished", None, 0.5)
    assert (episode.status, episode.error, episode.reward) == ("finished", None, 0.5)
    assert json.loads(episode.metrics) == {"score": 0.5, "num_turns": 3.0, "none": None}
    assert episode.stop_reason == "no_tools_called"
    assert episode.model == "oracle"
    assert episode.environment == ENVIRONMENT
    assert (episode.worker_id, episode.run_id, episode.attempt) == ("test-worker", "test-run", 1)
    assert episode.sandbox_id is not None and episode.sandbox_id.startswith("process-")
    assert [tool["name"] for tool in json.loads(episode.tool_schemas)] == ["put"]


def test_steps_are_the_conversation_cut_into_turns(worker: RolloutWorker) -> None:
    episode = record(one(worker, task()))
    roles = [message.role for message in episode.messages]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "tool", "assistant"]
    assert [step.step_index for step in episode.steps] == [0, 1, 2]
    assert [step.done for step in episode.steps] == [False, False, True]
    seen = 1
    for step in episode.steps:
        assert step.prompt_messages == episode.messages[:seen]
        assert step.action == episode.messages[seen]
        seen += 1
        assert step.observations == episode.messages[seen : seen + len(step.observations)]
        seen += len(step.observations)
    assert seen == len(episode.messages)
    assert [len(step.observations) for step in episode.steps] == [1, 2, 0]
    assert [step.finish_reason for step in episode.steps] == ["tool_calls", "tool_calls", "stop"]
    calls = episode.steps[1].action.tool_calls or []
    assert [call.id for call in calls] == [answer.tool_call_id for answer in episode.steps[1].observations]
    assert json.loads(calls[0].function.arguments) == {"key": "b", "value": 1}


def test_state_patches_are_those_of_each_turns_calls(worker: RolloutWorker) -> None:
    episode = record(one(worker, task(opening={"state_id": "of-patches"})))
    assert episode.initial_state_id == "of-patches"
    state: Any = {}
    states = []
    for patch in [episode.initial_state_patch, *(step.state_patch for step in episode.steps)]:
        assert patch is not None
        state = jsonpatch.apply_patch(state, json.loads(patch))
        states.append(state)
    assert states == [{}, {"score": 0.5}, *[{"score": 0.5, "b": 1, "c": 2}] * 2]


def test_step_rewards_are_those_that_the_environment_gave(worker: RolloutWorker) -> None:
    episode = record(one(worker, task(step_reward=0.25)))
    assert [step.reward for step in episode.steps] == [0.25, None, None]
    assert [step.reward for step in record(one(worker, task())).steps] == [None, None, None]


def test_last_observation_is_the_environments_last_word(worker: RolloutWorker) -> None:
    episode = record(one(worker, task(respond="end")))
    assert episode.stop_reason == "has_final_env_response"
    assert [message.content for message in episode.steps[-1].observations] == ["enough"]
    assert episode.messages[-1].content == "enough"


def test_timings_account_for_every_stage(worker: RolloutWorker) -> None:
    dispatched = spec(task()).model_copy(update={"dispatched_at": time.time() - 5})
    (result,) = worker.play([dispatched])
    timings = record(result).timings
    assert timings.queue >= 5
    assert min(timings.setup, timings.tools, timings.scoring) > 0
    assert timings.policy >= 0
    stages = timings.queue + timings.setup + timings.policy + timings.tools + timings.scoring
    assert stages <= timings.total
    assert record(result).steps[0].tools_seconds > 0


def test_timings_are_right_while_the_clock_is_set_back(
    worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hours = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(hours))
    timings = record(one(worker, task())).timings
    monkeypatch.undo()
    stages = timings.setup + timings.policy + timings.tools + timings.scoring
    assert 0 < stages <= timings.total < 3000
    assert min(timings.model_dump().values()) >= 0


def test_episode_that_runs_out_of_turns_is_finished(worker: RolloutWorker) -> None:
    episode = record(one(worker, task(*[turn(put("score", 0.25))] * 9)))
    assert (episode.status, episode.stop_reason, episode.reward) == ("finished", "max_turns_reached", 0.25)
    assert len(episode.steps) == 5
    assert episode.steps[-1].done and not episode.steps[-1].observations


def test_base_state_is_named_once(worker: RolloutWorker) -> None:
    first, second = (one(worker, task(opening={"state_id": "once"})) for _ in range(2))
    assert {name: json.loads(state) for name, state in first.states.items()} == {"once": {"state_id": "once"}}
    assert second.states == {}
    assert record(second).initial_state_id == "once"


def test_base_state_of_a_failed_episode_is_named_again(worker: RolloutWorker) -> None:
    """Its record may be dropped for that of another attempt."""
    lost = one(worker, task(turn(("exit", {"status": 1})), opening={"state_id": "again"}))
    assert lost.status == "failed"
    assert "again" in one(worker, task(opening={"state_id": "again"})).states


def test_base_state_that_is_not_to_be_had_costs_no_episode(worker: RolloutWorker) -> None:
    result = one(worker, task(opening={"state_id": "broken"}))
    assert (result.status, result.reward, result.states) == ("finished", 0.5, {})


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (
            task(opening={"open": "fail"}),
            "task",
            "SessionSetupError: ToolsetError: this task cannot be set up",
        ),
        (task(opening={"open": "raise"}), "task", "SessionSetupError: ZeroDivisionError: a bug in open"),
        (task(opening={"prepare": "fail"}), "task", "this task cannot be prepared"),
        (task(opening={"open": "exit"}), "sandbox", "SessionLost"),
        (task(setup="raise"), "environment", "KeyError: 'a bug in setup_state'"),
    ],
)
def test_failed_setup_is_on_record_without_a_reward(
    worker: RolloutWorker, row: dict[str, Any], kind: str, message: str
) -> None:
    result = one(worker, row)
    assert_failed(result, "setup", kind, message)
    assert record(result).steps == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (task(respond="raise"), "environment", "ZeroDivisionError: a bug in env_response"),
        (task(respond="raise a verifiers error"), "environment", "ToolCallError: no such tool"),
        (task(respond="raise a timeout"), "task", "TimeoutError: a server of the environment's does not"),
        (task(respond="bad stop"), "environment", "LookupError: a bug in a stop condition"),
        (task(respond="wreck"), "environment", "ZeroDivisionError: a bug in env_response"),
        (task(turn(("raise_error", {}))), "environment", "ToolsetError: ZeroDivisionError: a bug in a tool"),
        (task(turn(("exit", {"status": 3}))), "sandbox", "SessionLost: the session is gone"),
        (
            task(turn(("exit", {"status": 3})), respond="swallow"),
            "sandbox",
            "SessionLost: the session is gone",
        ),
        (task(turn(("sleep", {"seconds": 60}))), "task", "SessionTimeout: call did not end"),
        (
            task(turn(("sleep", {"seconds": 60})), respond="swallow"),
            "task",
            "SessionTimeout: call did not end",
        ),
    ],
)
def test_failure_in_the_middle_is_on_record_with_the_steps_so_far_and_costs_no_neighbour(
    worker: RolloutWorker, row: dict[str, Any], kind: str, message: str
) -> None:
    failed, *neighbours = played(worker, spec(row), *(spec(task()) for _ in range(3)))
    assert_failed(failed, "tools", kind, message)
    wrecked = row["info"].get("respond") == "wreck"
    assert len(record(failed).steps) == (0 if wrecked else 1)
    assert not any(step.done for step in record(failed).steps)
    assert [result.reward for result in neighbours] == [0.5] * 3


def test_policy_that_fails_is_on_record_as_the_policys_failure(worker: RolloutWorker) -> None:
    result = one(worker, task(turn(put("a", 1))))  # whose script then is at its end
    assert_failed(result, "policy", "policy", "PolicyError: the ground truth is at its end")
    assert len(record(result).steps) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (
            task(score="raise"),
            "environment",
            "reward function score raised ArithmeticError: a bug in a reward",
        ),
        (task(score="nan"), "environment", "reward function score raised ValueError: it gave nan"),
        (task(score="nothing"), "environment", "reward function score raised TypeError"),
        (task(clean="raise"), "environment", "OSError: a bug in a cleanup handler"),
        (task(clean="hang"), "task", "SessionTimeout: evaluate did not end"),
    ],
)
def test_failed_scoring_is_no_reward_of_zero(
    worker: RolloutWorker, row: dict[str, Any], kind: str, message: str
) -> None:
    result = one(worker, row)
    assert_failed(result, "scoring", kind, message)
    assert len(record(result).steps) == 3


@pytest.mark.slow
def test_sandbox_that_dies_under_its_episodes_fails_them_all_and_is_replaced(worker: RolloutWorker) -> None:
    sleeping = task(turn(("sleep", {"seconds": 2.8})), *GOOD)
    before = record(one(worker, task())).sandbox_id
    assert before is not None
    killing = threading.Timer(1.5, os.kill, (int(before.removeprefix("process-")), 9))
    killing.start()
    results = played(worker, *(spec(sleeping) for _ in range(3)))
    killing.join()
    for result in results:
        assert_failed(result, "tools", "sandbox", "SandboxDied: the sandbox died: its process ended")
    after = one(worker, task(), attempt=2)
    assert (after.reward, record(after).attempt) == (0.5, 2)
    assert record(after).sandbox_id != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "stage"),
    [
        (task(turn(("sleep", {"seconds": 30}))), "tools"),
        (task(opening={"open": "hang"}), "setup"),
    ],
)
def test_episode_out_of_time_is_on_record_and_its_session_is_gone(
    worker: RolloutWorker, row: dict[str, Any], stage: str
) -> None:
    result = one(worker, row, seconds_left=2.0)
    assert_failed(result, stage, "task", "EpisodeTimeout: episode.timeout ran out: 2.0 s were left")


def test_sandbox_that_does_not_come_up_is_on_record() -> None:
    with rollout_worker(ENVIRONMENT) as worker:
        pool = usual_pool(worker)
        assert pool._current is not None
        os.kill(int(pool._current.id.removeprefix("process-")), 9)
        while pool._current.alive:
            time.sleep(0.01)
        pool._spec.config["preload"] = "fail"
        result = one(worker, task())
        assert_failed(result, "setup", "sandbox", "SandboxStartError: RuntimeError: there is no database")
        assert record(result).sandbox_id is None


def test_worker_whose_sandbox_does_not_come_up_says_so() -> None:
    with pytest.raises(SandboxStartError, match="did not come up within 0"):  # noqa: SIM117 - raised inside
        with rollout_worker(ENVIRONMENT, sandbox={"start_timeout": 0.01}):
            pass


def test_stopped_worker_breaks_off_what_is_in_flight_and_leaves_nothing() -> None:
    with rollout_worker(ENVIRONMENT, sandbox={"call_timeout": 600}) as worker:
        pool = usual_pool(worker)
        assert pool._current is not None
        pid = int(pool._current.id.removeprefix("process-"))
        with concurrent.futures.ThreadPoolExecutor() as threads:
            playing = threads.submit(worker.play, [spec(task(turn(("sleep", {"seconds": 600}))))])
            while not (pool._current.sessions and children(pid)):
                time.sleep(0.01)
            worker.stop()
            with pytest.raises((concurrent.futures.CancelledError, asyncio.CancelledError)):
                playing.result(timeout=90)
        assert not is_alive(pid)


def test_worker_stopped_while_it_comes_up_leaves_nothing() -> None:
    with rollout_worker(ENVIRONMENT) as worker:
        player = worker._player
        pool = usual_pool(worker)
        assert pool._current is not None
        os.kill(int(pool._current.id.removeprefix("process-")), 9)
        while pool._current.alive:
            time.sleep(0.01)
        pool._spec.config["preload"] = "hang"
        with concurrent.futures.ThreadPoolExecutor() as threads:
            getting_ready = threads.submit(worker.ready)
            while not player._in_flight:
                time.sleep(0.01)
            worker.stop()
            with pytest.raises((concurrent.futures.CancelledError, asyncio.CancelledError)):
                getting_ready.result(timeout=90)


@pytest.mark.parametrize("recycle", ["fork", "episode"])
def test_episodes_share_a_sandbox_or_not_as_the_settings_say(recycle: str) -> None:
    with rollout_worker(ENVIRONMENT, sandbox={"recycle": recycle}) as worker:
        results = played(worker, *(spec(task()) for _ in range(3)))
    assert [result.reward for result in results] == [0.5] * 3
    sandboxes = {record(result).sandbox_id for result in results}
    assert len(sandboxes) == (1 if recycle == "fork" else 3)


def test_a_cancelled_episode_comes_to_no_record_and_leaves_no_session(worker: RolloutWorker) -> None:
    slow = spec(task(turn(put("score", 0.5)), opening={"open": "hang"}))
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        playing = threads.submit(worker.play, [slow])
        deadline = time.monotonic() + 90
        while not sessions(worker) and time.monotonic() < deadline:
            time.sleep(0.01)
        worker.cancel([slow.episode_id, "of no episode here"])
        assert playing.result(timeout=90) == []
    assert not sessions(worker)
    assert one(worker, task()).status == "finished"
