"""Environments of several agents that are programs: each in its container, or in one that they share."""

import json
import uuid

import pytest

from tests.helpers.conversation_policy import ConversationPolicy
from tests.helpers.mock_policy import Reply
from tests.helpers.run_containers import containers
from tests.helpers.v1_containers import TASKS, Containers, bash
from workers.agent_results import read_agents

pytestmark = [pytest.mark.slow, pytest.mark.docker]
SEATED = TASKS.with_name("v1_seat_tasks.py")
BASH = {"harness": {"id": "bash"}, "max_turns": 6}
WHERE = r"sed -n 's|.*/containers/\([0-9a-f]\{12\}\).*|\1|p' /proc/self/mountinfo | head -n 1"
"""Prints the id of its container, whose files Docker keeps in a folder of that name."""
SOLVE = [bash(f"{WHERE}; cat word.txt > out.txt; cat word.txt"), Reply(content="It is tatami.")]
VERDICT = '{"verdicts": [{"name": "solved", "reason": "I have read it.", "verdict": "%s"}]}'
GRADE = [
    bash(f"{WHERE}; ls; head -c 20 /tmp/trace.json"),
    bash(f"grep -q tatami out.txt && said=yes || said=no; printf '{VERDICT}' $said > /tmp/verdict.json"),
    Reply(content="Graded."),
]


def choose(body):
    """Solves, grades what was solved, or talks to who solves."""
    said = str(body["messages"])
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    if "You are grading another agent" in said:
        return GRADE[min(turn, len(GRADE) - 1)]
    if "###DONE###" in said:
        return Reply(content="###DONE###" if "It is tatami" in said else "Do it, please.")
    return SOLVE[min(turn, len(SOLVE) - 1)]


def play(python, env, **seats):
    """The record of an episode, and the containers that its agents have worked in, one for each that told."""
    run_id = f"test-{uuid.uuid4().hex[:8]}"
    with (
        ConversationPolicy(choose) as policy,
        Containers(python, policy, "bash", tasks=SEATED, run_id=run_id, args={"id": env, **seats}) as boxes,
    ):
        [record] = boxes.play_all()
    assert containers(run_id) == []
    told = {}
    for step in record.steps:
        for message in step.observations:
            first = str(message.content).strip().partition("\n")[0]
            if message.role == "tool" and len(first) == 12:
                told.setdefault(step.agent, set()).add(first)
    return record, told


def test_a_judge_looks_at_the_artifacts_in_a_container_of_its_own(python):
    record, told = play(python, "agentic-judge", solver=BASH, judge=BASH)
    assert record.error is None
    assert record.reward == 1.0
    metrics = json.loads(record.metrics)
    assert (metrics["judge/solved"], metrics["written"], metrics["told"]) == (1.0, 1.0, 1.0)
    assert len(told["solver"]) == len(told["judge"]) == 1
    assert told["solver"] != told["judge"]
    [grading] = [step for step in record.steps if step.agent == "judge"][:1]
    listed = str(grading.observations[0].content).split()
    assert (
        "out.txt" in listed and "word.txt" not in listed
    )  # what was declared has been carried, and only that
    assert {step.agent: step.trainable for step in record.steps} == {"solver": None, "judge": False}
    assert [(agent.agent, agent.trainable) for agent in read_agents(record)] == [
        ("solver", True),
        ("judge", False),
    ]
    noted = {entry["agent"]: entry["info"] for entry in json.loads(record.details or "{}")["info"]}
    assert noted["solver"]["left"] == "tatami\n"
    assert noted["judge"]["verdict"]["verdicts"][0]["reason"] == "I have read it."


def test_a_judge_looks_at_all_in_the_container_of_who_solved(python):
    record, told = play(python, "shared-agentic-judge", solver=BASH, judge=BASH)
    assert record.error is None
    assert record.reward == 1.0
    assert told["solver"] == told["judge"]
    assert len(told["solver"]) == 1


def test_each_attempt_of_best_of_n_has_a_container_of_its_own(python):
    record, told = play(python, "best-of-n", n=2, agent=BASH)
    assert record.error is None
    assert len(told["agent"]) == 2
    assert [agent.branches for agent in read_agents(record)] == [[0], [1]]


def test_a_simulated_user_that_chats_talks_to_a_program(python):
    record, told = play(python, "user-sim", assistant=BASH)
    assert record.error is None
    assert record.reward == 1.0
    assert [step.agent for step in record.steps] == ["user", "assistant", "assistant", "user"]
    assert len(told["assistant"]) == 1
