"""Environments of several agents: who plays each seat, and what their episodes come to."""

import json
from contextlib import ExitStack
from itertools import count

import pytest

from cluster.dataset.sequences import sequences_of
from tests.helpers.conversation_policy import ConversationPolicy, in_turn
from tests.helpers.mock_policy import Reply
from tests.helpers.taskset_player import play, taskset
from tests.helpers.v1_parity_tasksets import write_taskset
from workers.agent_results import read_agents

pytestmark = pytest.mark.slow


def converse(body):
    """A simulated user, and who is talked to."""
    if body["messages"][0]["role"] != "system":
        return Reply(content="ok")
    is_answered = any(message["content"] == "ok" for message in body["messages"])
    return Reply(content="###DONE###" if is_answered else "Say ok, please.")


@pytest.fixture(scope="module")
def played(python, tmp_path_factory):
    """The record of a first episode each, and the requests of the policies."""
    file = write_taskset(tmp_path_factory.mktemp("tasksets"), "Plain")
    attempts = count()
    with ExitStack() as stack:
        policies = {
            name: stack.enter_context(ConversationPolicy(choose))
            for name, choose in {
                "attempts": lambda body: Reply(content="ok" if next(attempts) % 3 == 1 else "no"),
                "both": converse,
                "assistant": in_turn(Reply(content="ok")),
                "customer": converse,
            }.items()
        }
        urls = {name: policy.base_url for name, policy in policies.items()}
        user = {"id": "user-sim", "user": {"model": "customer"}}
        best, sim, two, refused = play(
            python,
            [
                taskset(file, urls["attempts"], {"id": "best-of-n", "n": 3}),
                taskset(file, urls["both"], {"id": "user-sim"}),
                taskset(file, urls["assistant"], user, customer=urls["customer"]),
                taskset(
                    file, urls["both"], {"id": "user-sim", "user": {"client": {"base_url": "http://x/v1"}}}
                ),
            ],
        )
        models = {name: {body["model"] for body in policy.requests} for name, policy in policies.items()}
    return {"best": best[0], "sim": sim[0], "two": two[0], "refused": refused, "models": models}


def test_each_attempt_of_best_of_n_is_a_branch_with_its_own_reward(played):
    record = played["best"]
    assert record.error is None
    assert record.reward == pytest.approx(1 / 3)
    assert json.loads(record.metrics) == pytest.approx({"correct": 1 / 3, "best": 1 / 3, "pass_at_n": 1.0})
    assert [(step.agent, step.branch, step.parent_step) for step in record.steps] == [
        ("agent", 0, None),
        ("agent", 1, None),
        ("agent", 2, None),
    ]
    rewards = [0.0, 1.0, 0.0]
    assert [(agent.branches, agent.reward) for agent in read_agents(record)] == [
        ([number], reward) for number, reward in enumerate(rewards)
    ]
    assert [(s.branch, s.reward) for s in sequences_of(record)] == list(enumerate(rewards))


def test_a_simulated_user_talks_to_the_policy_and_is_not_learnt_from(played):
    record = played["sim"]
    assert record.error is None
    assert record.reward == 1.0
    assert [(step.agent, step.branch, step.parent_step, step.trainable) for step in record.steps] == [
        ("user", 0, None, False),
        ("assistant", 0, None, None),
        ("user", 0, 0, False),
    ]
    assert [(message.role, message.content) for message in record.messages] == [
        ("user", "Say ok, please."),
        ("assistant", "ok"),
    ]
    assert record.stop_reason == "user_closed"
    assert json.loads(record.metrics) == {"correct": 1.0, "user_turns": 2.0}
    [sequence] = sequences_of(record)
    assert (sequence.agent, sequence.reward) == ("assistant", 1.0)


def test_another_policy_plays_the_seat_that_names_it(played):
    record = played["two"]
    assert record.error is None
    assert played["models"]["customer"] == {"customer"}
    assert played["models"]["assistant"] == {"mock"}
    assert [(step.agent, step.policy, step.trainable) for step in record.steps] == [
        ("user", "customer", False),
        ("assistant", None, None),
        ("user", "customer", False),
    ]
    assert {agent.agent: agent.policy for agent in read_agents(record)} == {
        "user": "customer",
        "assistant": None,
    }


def test_an_endpoint_in_a_seat_is_refused(played):
    assert "environment.args.user.client: an endpoint belongs under `policies`" in played["refused"]
