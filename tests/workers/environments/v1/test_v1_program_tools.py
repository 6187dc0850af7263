"""Toolsets that a harness's program in a container calls: by verifiers' own `eval`, and over our pipe.

verifiers' eval plays on its subprocess runtime, where the program reaches a toolset by its port; ours reaches
the worker, and nothing else.
"""

import json
import os
import subprocess
import time
from contextlib import ExitStack, contextmanager

import pytest

from tests.helpers import verifiers_runner
from tests.helpers.conversation_policy import ConversationPolicy, in_turn
from tests.helpers.mock_policy import Reply
from tests.helpers.v1_containers import TASKS, Containers
from tests.helpers.v1_parity_tasksets import write_taskset

pytestmark = [pytest.mark.slow, pytest.mark.docker]
_TIMEOUT = 400
BASH = {"harness": {"id": "bash"}, "max_turns": 6}


def call(*calls):
    return Reply(content=None, tool_calls=list(calls))


SCRIPTS = {
    "Tools": [
        call(("sums_add", {"a": 1, "b": 2}), ("sums_split", {"text": "a b"})),
        call(("sums_fail", {"why": "no"}), ("sums_add", {"a": "x"}), ("bash", {"command": "echo hi"})),
        Reply(content="3"),
    ],
    "Counted": [call(("count", {"by": 2})), call(("count", {"by": 3})), Reply()],
    "Shared": [call(("shared_tools_remember", {"what": "a"})), Reply()],
    "Intercepted": [call(("sums_add", {"a": 1, "b": 2})), Reply(content="damn")],
    "Gated": [call(("sums_fail", {"why": "x"}), ("sums_add", {"a": 1})), Reply()],
}


def eval_config(folder, name, base_url):
    """What verifiers' eval takes."""
    return {
        "env": {
            "taskset": {"id": write_taskset(folder, name).stem},
            "agent": {"max_turns": 6, "harness": {"id": "bash"}, "runtime": {"type": "subprocess"}},
        },
        "model": "mock",
        "client": {"base_url": base_url, "api_key_var": "NO_SUCH_KEY"},
        "output_dir": str(folder / "out" / name),
    }


@pytest.fixture(scope="module")
def played(python, tmp_path_factory):
    """Every taskset, as verifiers has it and as Kumite has it, and what the policy was sent by each."""
    folder = tmp_path_factory.mktemp("tasksets")
    with ExitStack() as stack:
        policies = {
            name: stack.enter_context(ConversationPolicy(in_turn(*script)))
            for name, script in SCRIPTS.items()
        }
        configs = [eval_config(folder, name, policy.base_url) for name, policy in policies.items()]
        theirs = verifiers_runner.evaluate(python.executable, configs, folder, _TIMEOUT)
        results = {}
        for name, episodes in zip(SCRIPTS, theirs, strict=True):
            sent = list(policies[name].requests)
            policies[name].requests.clear()
            with Containers(python, policies[name], "bash", tasks=write_taskset(folder, name)) as boxes:
                results[name] = episodes, boxes.play_all(), sent, list(policies[name].requests)
        return results


@pytest.mark.parametrize("name", SCRIPTS)
def test_tools_answer_a_program_as_verifiers_has_it(played, name):
    theirs, ours, _, _ = played[name]
    assert len(ours) == len(theirs)
    for record, episode in zip(ours, theirs, strict=True):
        [trace] = episode["traces"]
        assert record.error is None
        assert [said_by(message.model_dump()) for message in record.messages] == [
            said_by(message) for message in trace["messages"]
        ]
        assert [tool["name"] for tool in json.loads(record.tool_schemas)] == trace["tools"]
        scores = {reward: pair[0] for reward, pair in trace["rewards"].items()}
        assert (record.reward, json.loads(record.metrics)) == (
            trace["reward"],
            {**scores, **trace["metrics"]},
        )
        assert (record.stop_reason, len(record.steps)) == (trace["stop"], trace["turns"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_policy_is_sent_the_same(played, name):
    _, _, theirs, ours = played[name]

    def sent(body):
        return [body.get("tools") or [], [said_by(message) for message in body["messages"]]]

    assert sorted(map(json.dumps, map(sent, ours))) == sorted(map(json.dumps, map(sent, theirs)))


def count(python, **config):
    """The record of an episode whose toolset is colocated."""
    tasks = TASKS.with_name("v1_colocated_tasks.py")
    script = in_turn(call(("counting_count", {"by": 2})), call(("counting_count", {"by": 1})), Reply())
    args = {"agent": BASH, "taskset": {"task": config}}
    with (
        ConversationPolicy(script) as policy,
        Containers(python, policy, "bash", tasks=tasks, args=args) as boxes,
    ):
        [record] = boxes.play_all()
    return record


def test_a_colocated_toolset_runs_beside_its_program_and_shares_the_rollouts_state(python):
    record = count(python)
    assert record.error is None
    assert record.reward == 3.0
    said = [str(step.observations[0].content) for step in record.steps[:2]]
    assert said == [f"{number} of Count. sandbox" for number in (2, 3)]  # what containers are called inside


def test_a_colocated_toolset_that_the_container_lacks_is_named_with_what_would_be_right(python):
    record = count(python, is_there=False)
    assert record.error is not None
    assert (record.error.stage, record.error.type) == ("setup", "ToolsetError")
    assert "toolset 'not_there': its container, which has no network" in record.error.message
    assert "RUNTIME_PYTHON" in record.error.message


@contextmanager
def served_elsewhere(python, file):
    """The address of a toolset that a process of its own serves, as verifiers starts one."""
    port_file = file.with_suffix(".port")
    environment = {**os.environ, "VF_CONFIG": "{}", "MCP_PORT_FILE": str(port_file)}
    server = subprocess.Popen([python.executable, str(file)], env=environment)
    try:
        deadline = time.monotonic() + _TIMEOUT
        while not (port_file.is_file() and port_file.read_text()):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port_file.read_text()}/mcp"
    finally:
        server.kill()
        server.wait()


def test_a_toolset_that_is_served_elsewhere_is_asked_for_a_program_without_a_network(python, tmp_path):
    script = in_turn(
        call(("sums_add", {"a": 1, "b": 2}), ("bash", {"command": "ls /sys/class/net"})), Reply()
    )
    file = write_taskset(tmp_path, "Remote")
    with served_elsewhere(python, file) as url, ConversationPolicy(script) as policy:
        args = {"agent": BASH, "taskset": {"task": {"url": url}}}
        with Containers(python, policy, "bash", tasks=file, args=args) as boxes:
            [record] = boxes.play_all()
    assert record.error is None
    assert [str(message.content).strip() for message in record.steps[0].observations] == ["3", "lo"]


def test_a_tool_that_still_runs_when_its_rollout_is_over_is_broken_off(python, tmp_path):
    script = in_turn(call(("wait_tools_wait", {})), Reply())
    told = tmp_path / "told.txt"
    args = {"agent": BASH, "taskset": {"task": {"told": str(told)}}}
    file = write_taskset(tmp_path, "Waiting")
    with (
        ConversationPolicy(script) as policy,
        Containers(python, policy, "bash", tasks=file, args=args) as boxes,
    ):
        [record] = boxes.play_all()
        assert told.read_text() == "broken off"
    # Up to 0.3.1, an agent whose time is over has failed; from 0.4.0 on, it has stopped.
    assert "timeout" in (record.error.message if record.error is not None else str(record.stop_reason))


def said_by(message):
    """A message without its ids."""
    calls = []
    for made in message.get("tool_calls") or []:
        function = made.get("function", made)
        calls.append([function["name"], function["arguments"]])
    return {"role": message["role"], "content": str(message.get("content") or ""), "calls": calls}
