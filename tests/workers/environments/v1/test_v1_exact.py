"""`policy.tokens: exact` for v1 tasksets: each turn has the ids of the turn before, verbatim."""

import json
from itertools import pairwise

import pytest

from cluster.dataset.sequences import sequences_of
from cluster.verify.token_rules import prompt_continues
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.taskset_player import play, taskset
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from tests.helpers.v1_containers import Containers
from tests.helpers.v1_parity_tasksets import write_taskset
from workers.policy.chat_template import ChatTemplate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return ChatTemplate(str(make_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def play_well(python, tasksets):
    """The records of each taskset's episodes, each of which loads."""
    played = play(python, tasksets)
    assert not any(isinstance(result, str) for result in played), played
    return [list(result) for result in played if not isinstance(result, str)]


def says(template, text):
    ids = template.encode(text)
    return Reply(token_ids=ids, logprobs=[-0.5] * len(ids), finish_reason="stop")


def calls(template, name, arguments):
    """A call with two blanks, as no template would write it anew."""
    text = f'<tool_call>\n{{"name":"{name}",  "arguments": {json.dumps(arguments)}}}\n</tool_call>'
    return says(template, text + END)


def check_exact(record, requests):
    """All turns go on from one another, as the policy was asked; and make one sequence."""
    steps = record.steps
    assert all(prompt_continues(before, after) for before, after in pairwise(steps))
    assert [request["token_ids"] for request in requests] == [step.prompt_token_ids for step in steps]
    assert all(len(s.completion_logprobs or []) == len(s.completion_token_ids or []) > 0 for s in steps)
    [sequence] = sequences_of(record)
    last = steps[-1]
    assert sequence.input_ids == [*last.prompt_token_ids, *last.completion_token_ids]


def test_a_chat_with_tools_goes_on_token_by_token(python, template, tmp_path):
    file = write_taskset(tmp_path, "Counted")
    turns = [
        calls(template, "count", {"by": 1}),
        calls(template, "count", {"by": 1}),
        says(template, "2" + END),
    ]
    with MockPolicy(*turns, *turns) as policy:
        [records] = play_well(python, [taskset(file, policy.base_url, tokenizer=template.model)])
        requests = list(policy.requests)
    assert [(record.error, record.reward, len(record.steps)) for record in records] == [(None, 2.0, 3)] * 2
    check_exact(records[0], requests[:3])
    check_exact(records[1], requests[3:])
    assert [message.role for message in records[0].messages] == [
        "user", "assistant", "tool", "assistant", "tool", "assistant"
    ]  # fmt: skip
    assert all(request["sampling_params"]["max_tokens"] == 512 for request in requests)


def test_a_simulated_users_words_go_on_from_what_was_said(python, template, tmp_path):
    file = write_taskset(tmp_path, "Plain")
    script = ["Say ok, please.", "ok", "###DONE###"]
    with MockPolicy(*(says(template, text + END) for text in script * 2)) as policy:
        args = {"id": "user-sim"}
        [records] = play_well(python, [taskset(file, policy.base_url, args, tokenizer=template.model)])
    record = records[0]
    assert record.error is None
    for agent in {step.agent for step in record.steps}:
        steps = [step for step in record.steps if step.agent == agent]
        assert all(prompt_continues(before, after) for before, after in pairwise(steps))


@pytest.mark.docker
def test_a_program_in_a_container_goes_on_token_by_token(python, template):
    turns = [
        calls(template, "bash", {"command": "cat notes/hint.txt"}),
        calls(template, "bash", {"command": "echo tatami > out.txt"}),
        says(template, "It is tatami." + END),
    ]
    exact = {"tokens": "exact", "tokenizer": template.model, "request_timeout": 60.0}
    with MockPolicy() as policy, Containers(python, policy, "bash", endpoint=exact) as boxes:
        record = boxes.play("plain", *turns)
        requests = list(policy.requests)
    assert record.error is None, record.error
    assert len(record.steps) == 3
    check_exact(record, requests)
