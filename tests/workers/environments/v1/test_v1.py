"""Tasksets of verifiers' v1 API, played by verifiers' own runner of both releases that have one."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.dataset.sequences import sequences_of
from tests.helpers.mock_policy import Fault, Reply

pytestmark = pytest.mark.slow


def test_an_episode_is_scored_and_recorded_as_v1_has_it(hooks):
    record = hooks.play("plain")
    assert record.error is None
    assert (record.reward, record.stop_reason, record.is_truncated) == (2.75, "agent_completed", False)
    assert json.loads(record.metrics) == {
        "correct": 1.0,
        "brief": 0.5,
        "kind": 0.25,
        "turns": 1.0,
        "in_order": 1.0,
    }
    assert [(m.role, m.content) for m in record.messages] == [("user", "Play plain."), ("assistant", "ok")]
    [step] = record.steps
    assert (step.agent, step.branch, step.parent_step, step.dialect) == ("agent", 0, None, "chat")
    assert (step.prompt_token_ids, step.completion_token_ids) == ([1, 2, 3], [7, 8])
    assert step.completion_logprobs == [-0.5, -0.25]
    assert (step.done, step.finish_reason) == (True, "stop")
    assert record.timings.policy > 0


def test_the_runs_sampling_wins_over_the_seats_and_512_tokens_are_the_limit(hooks):
    hooks.play("plain")
    [body] = hooks.policy.requests
    assert (body["temperature"], body["top_p"], body["model"]) == (0.25, 0.9, "mock")
    assert body.get("max_tokens", body.get("max_completion_tokens")) == 512
    assert hooks.sampling_args == {"temperature": 0.5, "top_p": 0.9}


def test_tasks_have_their_own_key_for_an_id(hooks):
    assert [json.loads(row["info"])["task_id"] for row in hooks.rows.values()][:2] == [
        "plain",
        "setup raises",
    ]


@pytest.mark.parametrize(
    ("mode", "roles"), [("system", ["system", "user", "assistant"]), ("messages", ["user", "assistant"])]
)
def test_prompts_of_all_shapes_are_sent(hooks, mode, roles):
    record = hooks.play(mode)
    assert [message.role for message in record.messages] == roles
    assert [message["role"] for message in hooks.policy.requests[0]["messages"]] == roles[:-1]


@pytest.mark.parametrize(
    ("mode", "stage", "kind", "said"),
    [
        ("setup raises", "setup", "TaskError", "no set-up today"),
        ("reward raises", "scoring", "TaskError", "nothing of the kind"),
        ("reward is no number", "scoring", "ScoringError", "'correct' is nan"),
    ],
)
def test_a_hook_that_fails_fails_the_episode_and_says_where(hooks, mode, stage, kind, said):
    record = hooks.play(mode)
    assert record.error is not None
    assert record.reward is None
    assert (record.error.stage, record.error.kind, record.error.type) == (stage, "environment", kind)
    assert said in record.error.message
    if kind == "TaskError":
        assert "v1_tasksets.py" in (record.error.traceback or "")


def test_a_call_of_a_tool_that_is_not_there_is_answered_and_the_turns_are_one_branch(hooks):
    record = hooks.play(
        "tools", Reply(content=None, tool_calls=[("look", {"at": "it"})]), Reply(content="ok")
    )
    assert [step.branch for step in record.steps] == [0, 0]
    assert [step.parent_step for step in record.steps] == [None, 0]
    [observation] = record.steps[0].observations
    assert (observation.role, observation.content) == ("tool", "error: unknown tool 'look'")
    assert [step.done for step in record.steps] == [False, True]
    assert record.steps[1].prompt_messages[:2] == [*record.steps[0].prompt_messages, record.steps[0].action]
    assert record.reward == 2.75


def test_the_seats_limit_of_turns_ends_the_episode_with_a_score(hooks):
    calls = [Reply(content=None, tool_calls=[("look", {})]) for _ in range(5)]
    record = hooks.play("tools", *calls)
    assert (len(record.steps), record.stop_reason, record.is_truncated) == (3, "max_turns", True)
    assert record.reward == 0.75


def test_a_stop_of_the_task_ends_the_episode(hooks):
    record = hooks.play("stop", Reply(content="stop here", tool_calls=[("look", {})]), Reply())
    assert (len(record.steps), record.stop_reason, record.reward) == (1, "said_stop", 0.75)


def test_what_the_policy_refuses_is_the_policys_failure(hooks):
    record = hooks.play("refused", Fault("status", status=400, message="not like that"))
    assert record.error is not None
    assert (record.error.stage, record.error.kind, record.error.type) == ("policy", "policy", "PolicyRefusal")
    assert "not like that" in record.error.message


def test_a_prompt_that_is_too_long_ends_the_episode_as_verifiers_has_it(hooks):
    said = "This model's maximum context length is 8 tokens. However, you requested 9 tokens in the messages"
    record = hooks.play(
        "overlong",
        Reply(content=None, tool_calls=[("look", {})]),
        Fault("status", status=400, message=said),
    )
    assert record.error is None
    ended = ("context_length", True) if hooks.version == "0.3.1" else ("agent_completed", False)
    assert (len(record.steps), record.stop_reason, record.is_truncated) == (1, *ended)


def test_a_policy_without_tokens_says_so(hooks):
    record = hooks.play("plain", Reply(prompt_token_ids=[]))
    [step] = record.steps
    assert step.completion_token_ids is None
    assert step.no_logprobs is not None


def test_a_branch_is_a_sequence(hooks):
    first = Reply(content=None, tool_calls=[("look", {})], prompt_token_ids=[1, 2], token_ids=[3, 4])
    second = Reply(prompt_token_ids=[1, 2, 3, 4, 5], token_ids=[6, 7])
    [sequence] = sequences_of(hooks.play("tools", first, second))
    assert sequence.input_ids == [1, 2, 3, 4, 5, 6, 7]
    assert sequence.loss_mask == [0, 0, 1, 1, 0, 1, 1]
    assert sequence.reward == 2.75


def test_episodes_that_are_played_at_once_keep_their_own_notes(hooks):
    modes = ["plain", "system", "messages", "reward raises"]
    with ThreadPoolExecutor(len(modes)) as threads:
        records = list(threads.map(hooks.play, modes))
    assert [len(record.steps) for record in records] == [1, 1, 1, 1]
    assert [record.reward for record in records] == [2.75, 2.75, 2.75, None]
    for mode, record in zip(modes, records, strict=True):
        assert record.steps[0].prompt_messages[-1].content == f"Play {mode}."


def test_the_oracle_says_the_tasks_answer(oracle):
    assert oracle.play("oracle").reward == 2.75
    record = oracle.play("plain")
    assert record.error is not None
    assert "no field `answer`" in record.error.message
