"""Whatever a dataset, an environment or a reward function holds: an episode of it has exactly one record."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from verifiers.types import Tool  # pyright: ignore[reportMissingImports] - verifiers makes it as it is imported

from cluster.plan.plan import row_task_id
from cluster.plan.tasks import _make_task
from tests.helpers.rollouts import ORACLE
from workers.environments.base import Rollout
from workers.environments.classic import steps
from workers.environments.json_text import json_text
from workers.environments.sendable import replace_unsendable
from workers.environments.tracing import EpisodeTrace, Turn
from workers.episode import EpisodePlayer
from workers.episode_record import Play
from workers.lost_episodes import make_lost_result
from workers.policy.oracle_client import OracleClient
from workers.records import EpisodeError, EpisodeRecord, EpisodeResult, EpisodeSpec, info_of, labels_of
from workers.settings import EnvironmentSettings, SandboxSettings, WorkerSettings

TEXTS = st.text(alphabet=st.characters(), max_size=8) | st.sampled_from(["", "\ud83d", "\x00", "NaN", "{"])
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.floats(width=32).map(np.float32),
    st.integers(-9, 9).map(np.int64),
    st.booleans().map(np.bool_),
    st.floats(width=16).map(lambda value: np.array(value, dtype=np.float16)),
)
ODD = st.sampled_from([object(), b"\xff", {1, 2}, 1j, np.arange(3), float, 10**400, lambda: None])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | TEXTS | NUMBERS | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "type": VALUES,
        "name": VALUES,
        "function": st.fixed_dictionaries({}, optional={"name": VALUES, "arguments": VALUES}) | VALUES,
        "arguments": VALUES,
    },
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
    optional={
        "content": VALUES | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": VALUES})),
        "tool_calls": st.none() | st.lists(CALLS, max_size=2) | VALUES,
        "tool_call_id": VALUES,
        "reasoning_content": VALUES,
    },
)
CONVERSATIONS = st.lists(MESSAGES | VALUES, max_size=3) | VALUES
INFOS = VALUES | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("suite", "user_task", "attack", "task_id", "difficulty"), VALUES)
)
ROWS = st.fixed_dictionaries({"prompt": CONVERSATIONS, "example_id": VALUES}, optional={"info": INFOS})
TOKENS = st.none() | st.fixed_dictionaries(
    {
        "prompt_ids": st.lists(NUMBERS, max_size=3) | VALUES,
        "completion_ids": st.lists(NUMBERS, max_size=3) | VALUES,
        "completion_logprobs": st.lists(NUMBERS | st.none(), max_size=3) | VALUES,
    }
)
TOOLS = st.builds(
    Tool.model_construct,
    name=VALUES,
    description=VALUES,
    parameters=st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "properties", "default"), VALUES)),
    strict=VALUES,
)
STEPS = st.fixed_dictionaries(
    {"prompt": CONVERSATIONS, "completion": CONVERSATIONS, "reward": VALUES, "tokens": TOKENS}
)
STATES = st.fixed_dictionaries(
    {"prompt": CONVERSATIONS, "trajectory": st.lists(STEPS, max_size=2)},
    optional={
        "completion": CONVERSATIONS,
        "reward": NUMBERS | VALUES,
        "metrics": st.dictionaries(TEXTS, NUMBERS | VALUES, max_size=3) | VALUES,
        "stop_condition": VALUES,
        "is_truncated": VALUES,
        "final_env_response": CONVERSATIONS,
        "tool_defs": st.lists(TOOLS | VALUES, max_size=2) | VALUES,
        "info": INFOS,
    },
)
EVERY_CHECK: Any = list(HealthCheck)
UNHURRIED = settings(deadline=None, max_examples=40, suppress_health_check=EVERY_CHECK)
THOROUGH = settings(UNHURRIED, max_examples=5000)


def a_spec(row: dict[str, Any]) -> EpisodeSpec:
    return EpisodeSpec(episode_id="e", task_id="t", group_id="g", sample_index=0, row=row)


def a_player() -> EpisodePlayer:
    worker = WorkerSettings(
        run_id="r",
        environment=EnvironmentSettings(id="env.py"),
        sandbox=SandboxSettings(),
        policy=ORACLE,
    )
    nothing: Any = None
    player = EpisodePlayer.__new__(EpisodePlayer)
    EpisodePlayer.__init__(player, worker, nothing, None, OracleClient(), "w", "n")
    return player


def assert_strict(result: EpisodeResult) -> EpisodeRecord:
    """It is JSON as strict readers take it, in UTF-8, and the record that it says it is."""

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    record = EpisodeRecord.model_validate(json.loads(result.record, parse_constant=refuse))
    result.record.encode()
    json.loads(record.metrics, parse_constant=refuse)
    json.loads(record.tool_schemas, parse_constant=refuse)
    result.model_dump_json()
    assert (record.status == "failed") == (record.error is not None)
    return record


def record_of_a_state(state: dict[str, Any], row: dict[str, Any], fails: bool) -> EpisodeRecord:
    trace = EpisodeTrace(state=state, turns=[Turn(1)])
    play = Play(a_spec(row), trace)
    outcome: Any
    try:
        outcome = ValueError("\ud83d") if fails else steps.make_rollout(state, trace)
    except Exception as error:  # noqa: BLE001 - as the player has it
        outcome = error
    return assert_strict(a_player()._result(play, outcome))


@pytest.mark.slow
@UNHURRIED
@given(STATES, ROWS, st.booleans())
def test_any_state_has_a_record(state: dict[str, Any], row: dict[str, Any], fails: bool) -> None:
    record = record_of_a_state(state, row, fails)
    for step in record.steps:
        if step.completion_logprobs is not None:
            assert step.completion_token_ids is not None
            assert len(step.completion_logprobs) == len(step.completion_token_ids)


@pytest.mark.exhaustive
@THOROUGH
@given(STATES, ROWS, st.booleans())
def test_any_state_of_thousands_has_a_record(state: dict[str, Any], row: dict[str, Any], fails: bool) -> None:
    record_of_a_state(state, row, fails)


@pytest.mark.parametrize("fails", [False, True])
def test_an_episode_whose_record_cannot_be_made_has_one_that_says_why(fails: bool) -> None:
    class Session:
        @property
        def scores(self) -> Any:
            raise RuntimeError("its scores are gone")

    session: Any = Session()
    play = Play(a_spec({"prompt": "hi", "example_id": 0}), EpisodeTrace(session=session))
    outcome: Any = ValueError("its own") if fails else Rollout([], "[]", [], 1.0, {}, None, False)
    record = assert_strict(a_player()._result(play, outcome))
    assert record.error is not None
    assert ("its own" if fails else "its scores are gone") in record.error.message


@UNHURRIED
@given(ROWS)
def test_any_row_has_labels_an_id_and_a_record_of_what_it_was_lost_to(row: dict[str, Any]) -> None:
    labels_of(row).model_dump_json()
    assert isinstance(info_of(row), dict)
    row_task_id(row).encode()
    _make_task(row).model_dump_json()
    error = EpisodeError.of("worker", "worker", ValueError("\ud83d"))
    assert_strict(
        make_lost_result(a_spec(row), error, run_id="r", environment=EnvironmentSettings(id="e"), model="m")
    )


@UNHURRIED
@given(VALUES)
def test_any_value_is_json_text(value: Any) -> None:
    json.loads(json_text(value), parse_constant=pytest.fail)


@UNHURRIED
@given(CONVERSATIONS)
def test_what_is_sent_is_utf8_and_is_itself_where_it_can_be(messages: Any) -> None:
    sent = replace_unsendable(messages)
    sent_again = replace_unsendable(sent)
    assert repr(sent_again) == repr(sent)


@pytest.mark.parametrize(
    ("value", "is_"),
    [
        (np.float32(0.5), 0.5),
        (np.array(2), 2.0),
        (True, 1.0),
        (float("nan"), None),
        (float("-inf"), None),
        (np.float64("nan"), None),
        ("0.5", 0.5),
        ("good", None),
        (None, None),
        (10**400, None),
    ],
)
def test_a_number_is_a_number_or_none(value: Any, is_: float | None) -> None:
    assert steps.to_number(value) == is_


@pytest.mark.parametrize(
    ("row", "task_id"),
    [
        ({"info": {"task_id": 0}, "example_id": 5}, "0"),
        ({"info": {"task_id": ""}, "example_id": 5}, "5"),
        ({"info": {}, "task_id": 0, "example_id": 5}, "0"),
        ({"info": '{"task_id": "a"}', "example_id": 5}, "a"),
        ({"info": None, "example_id": 0}, "0"),
    ],
)
def test_a_task_has_the_id_that_its_row_gives(row: dict[str, Any], task_id: str) -> None:
    assert row_task_id(row) == task_id
