"""Toolsets of verifiers' v1 API, which the worker serves without a process, and the hooks around them."""

import json
import sys
from contextlib import ExitStack

import pytest

from tests.helpers.conversation_policy import ConversationPolicy, in_turn
from tests.helpers.mock_policy import Reply
from tests.helpers.taskset_player import play, taskset
from tests.helpers.v1_parity_tasksets import write_taskset

pytestmark = pytest.mark.slow


def call(*calls):
    return Reply(content=None, tool_calls=list(calls))


SCRIPTS = {
    "Tools": [
        call(("sums_add", {"a": 1, "b": 2}), ("sums_split", {"text": "a b"})),
        call(("sums_fail", {"why": "not today"}), ("sums_add", "[1]"), ("sums_nothing", {})),
        Reply(content="3"),
    ],
    "Counted": [call(("count", {"by": 2})), call(("count", {"by": 3})), Reply()],
    "Shared": [call(("shared_tools_remember", {"what": "a"})), Reply()],
    "Intercepted": [call(("sums_add", {"a": 1, "b": 2})), Reply(content="damn")],
    "Gated": [call(("sums_fail", {"why": "x"}), ("sums_add", {"a": 1})), Reply()],
}


@pytest.fixture(scope="module")
def played(python, tmp_path_factory):
    """The records of each taskset's episodes, and the requests of its policy."""
    folder = tmp_path_factory.mktemp("tasksets")
    with ExitStack() as stack:
        policies = [stack.enter_context(ConversationPolicy(in_turn(*script))) for script in SCRIPTS.values()]
        tasksets = [
            taskset(write_taskset(folder, name), policy.base_url)
            for name, policy in zip(SCRIPTS, policies, strict=True)
        ]
        records = play(python, tasksets)
        requests = [policy.requests for policy in policies]
    return dict(zip(SCRIPTS, zip(records, requests, strict=True), strict=True))


def test_tools_are_offered_and_called_and_their_errors_are_told(played):
    [record], requests = played["Tools"]
    assert record.error is None
    assert record.reward == 1.0
    names = ["sums_add", "sums_split", "sums_fail"]
    assert [tool["function"]["name"] for tool in requests[0]["tools"]] == names
    assert [tool["name"] for tool in json.loads(record.tool_schemas)] == names
    said = [[message.content for message in step.observations] for step in record.steps]
    assert said[0] == ["3", "a\nb"]
    assert said[1][0] == "Error executing tool fail: not today"
    assert said[1][1].startswith("error: tool arguments must be a JSON object")
    assert said[1][2] == "error: unknown tool 'sums_nothing'"
    assert [step.tool_errors for step in record.steps] == [[False, False], [True, True, True], None]
    assert record.timings.tools > 0


def test_tools_share_the_rollouts_state_with_its_stops_and_rewards(played):
    [record, _], _ = played["Counted"]
    assert record.error is None
    assert (record.reward, record.stop_reason, len(record.steps)) == (5.0, "is_full", 2)
    assert json.loads(record.metrics)["noted"] == 2.0
    assert record.steps[0].observations[0].content == "2 of Count."


def test_a_shared_toolset_keeps_the_states_of_episodes_apart(played):
    records, _ = played["Shared"]
    assert [record.reward for record in records] == [1.0, 1.0]
    assert [record.steps[0].observations[0].content for record in records] == ["a", "a"]


def test_what_a_hook_rewrites_is_what_the_policy_and_the_record_have(played):
    [record], requests = played["Intercepted"]
    assert record.error is None
    assert record.reward == 1.0
    assert requests[1]["messages"][-1]["content"] == "three"
    assert record.messages[-1].content == "three"


def test_the_gate_forbids_a_call_from_040_on(played, python):
    [record, _], requests = played["Gated"]
    assert record.error is None
    forbidden, added = [m["content"] for m in requests[1]["messages"] if m["role"] == "tool"]
    if python.executable == sys.executable:  # 0.3.1's `null` has no gate
        assert (forbidden, record.steps[0].tool_errors) == ("Error executing tool fail: x", [True, False])
    else:
        assert (forbidden, record.steps[0].tool_errors) == ("that is not allowed", None)
    assert added == "2"
