"""The same tasksets by verifiers' own `eval` and by Kumite's worker: what comes of them is the same.

Those differences that there are have tests of their own, at the end; docs/environments.md lists them.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import verifiers_runner
from tests.helpers.conversation_policy import ConversationPolicy, in_turn
from tests.helpers.mock_policy import Fault, Reply
from tests.helpers.taskset_player import play, taskset
from tests.helpers.v1_parity_tasksets import write_taskset
from workers.agent_results import read_agents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
_TIMEOUT = 1500


def call(*calls):
    return Reply(content=None, tool_calls=list(calls))


def converse(body: dict[str, Any]) -> Reply | Fault:
    """A simulated user, and who is talked to."""
    if body["messages"][0]["role"] != "system":
        return Reply(content="ok")
    is_answered = any(message["content"] == "ok" for message in body["messages"])
    return Reply(content="###DONE###" if is_answered else "Say ok, please.")


def judge(body: dict[str, Any]) -> Reply | Fault:
    return Reply(content="yes" if body["model"] == "judge" else "quite ok")


@dataclass
class Case:
    """A taskset, and how its policy answers."""

    taskset: str
    choose: Callable[[dict[str, Any]], Reply | Fault]
    env: dict[str, Any] = field(default_factory=dict)
    seats: tuple[str, ...] = ("agent",)


LOOK = call(("look", {"at": "it"}))
TOO_LONG = "This model's maximum context length is 8 tokens. However, you requested 9 tokens in the messages"
CASES = {
    "plain": Case("Plain", in_turn(Reply(content="ok"))),
    "system": Case("System", in_turn(Reply(content="no"))),
    "messages": Case("Messages", in_turn(Reply(content="ok"))),
    "weighed": Case("Weighed", in_turn(Reply(content="ok"))),
    "stopped": Case("Stopped", in_turn(Reply(content="enough", tool_calls=[("look", {})]), Reply())),
    "limited": Case("Limited", in_turn(LOOK), {"agent": {"max_turns": 2}}),
    "overlong": Case("Limited", in_turn(LOOK, Fault("status", status=400, message=TOO_LONG))),
    "tools": Case(
        "Tools",
        in_turn(
            call(("sums_add", {"a": 1, "b": 2}), ("sums_split", {"text": "a b"})),
            call(("sums_fail", {"why": "no"}), ("sums_add", {"a": "x"}), ("sums_add", "[1]"), ("nope", "{")),
            Reply(content="3"),
        ),
    ),
    "counted": Case("Counted", in_turn(call(("count", {"by": 2})), call(("count", {"by": 3})), Reply())),
    "shared": Case("Shared", in_turn(call(("shared_tools_remember", {"what": "a"})), Reply())),
    "intercepted": Case("Intercepted", in_turn(call(("sums_add", {"a": 1, "b": 2})), Reply(content="damn"))),
    "gated": Case("Gated", in_turn(call(("sums_fail", {"why": "x"}), ("sums_add", {"a": 1})), Reply())),
    "refused by a hook": Case("Gated", in_turn(call(("sums_split", {"text": "stop it"})), Reply())),
    "failed": Case("Failed", in_turn(Reply())),
    "timed": Case("Timed", in_turn(Reply())),
    "judged": Case("Judged", judge),
    "best of n": Case("Plain", in_turn(Reply(content="ok")), {"id": "best-of-n", "n": 2}),
    "user sim": Case("Plain", converse, {"id": "user-sim"}, ("assistant", "user")),
}


def env_of(case: Case, base_url: str) -> dict[str, Any]:
    """The block that verifiers has under `[env]`."""
    if case.taskset != "Judged":
        return case.env
    plugged = {"id": "reference", "model": "judge", "base_url": base_url, "api_key_var": "NO_SUCH_KEY"}
    return {"taskset": {"task": {"judges": [plugged]}}}


@pytest.fixture(scope="module")
def played(python, tmp_path_factory):
    """Every case, as verifiers' eval has it and as Kumite has it."""
    folder = tmp_path_factory.mktemp("tasksets")
    with ExitStack() as stack:
        policies = {
            name: stack.enter_context(ConversationPolicy(case.choose)) for name, case in CASES.items()
        }
        configs = [eval_config(folder, name, policies[name].base_url) for name in CASES]
        theirs = verifiers_runner.evaluate(python.executable, configs, folder, _TIMEOUT)
        sent = {name: list(policy.requests) for name, policy in policies.items()}
        for policy in policies.values():
            policy.requests.clear()
        ours = play(
            python,
            [
                taskset(
                    write_taskset(folder, case.taskset),
                    policies[name].base_url,
                    env_of(case, policies[name].base_url),
                )
                for name, case in CASES.items()
            ],
        )
        return {
            name: (theirs[number], ours[number], sent[name], policies[name].requests)
            for number, name in enumerate(CASES)
        }


def eval_config(folder: Path, name: str, base_url: str) -> dict[str, Any]:
    """What verifiers' eval takes."""
    case = CASES[name]
    env = env_of(case, base_url)
    module = write_taskset(folder, case.taskset).stem
    plain = {"harness": {"id": "null"}, "runtime": {"type": "subprocess"}}
    return {
        "env": {
            **env,
            "taskset": {**env.get("taskset", {}), "id": module},
            **{seat: {**env.get(seat, {}), **plain} for seat in case.seats},
        },
        "model": "mock",
        "client": {"base_url": base_url, "api_key_var": "NO_SUCH_KEY"},
        "output_dir": str(folder / "out" / name.replace(" ", "-")),
    }


@pytest.mark.parametrize("name", CASES)
def test_a_taskset_comes_to_the_same(played, name):
    theirs, ours, _, _ = played[name]
    assert len(ours) == len(theirs)
    for episode, record in zip(theirs, ours, strict=True):
        assert (record.status == "finished") == episode["ok"]
        if not episode["ok"]:
            assert record.error is not None
            assert record.error.type == episode["traces"][0]["errors"][-1]
        else:
            assert rewards_of(record) == [trace_rewards(trace) for trace in episode["traces"]]
        main = next(t for t in episode["traces"] if t["trainable"])
        assert messages_of(record) == [without_ids(message) for message in main["messages"]]
        assert [tool["name"] for tool in json.loads(record.tool_schemas)] == main["tools"]
        assert usage_of(record) == sorted(map(tuple, (u for t in episode["traces"] for u in t["usage"])))
        assert len(record.steps) == sum(trace["turns"] for trace in episode["traces"])
        if episode["ok"]:
            assert (record.stop_reason, record.is_truncated) == (main["stop"], main["truncated"])


@pytest.mark.parametrize("name", CASES)
def test_the_policy_is_sent_the_same(played, name):
    _, _, theirs, ours = played[name]
    assert sorted(map(sent_text, ours)) == sorted(map(sent_text, theirs))


def rewards_of(record):
    """Reward, scores and metrics of each agent."""
    agents = read_agents(record)
    if not agents:
        return [(record.reward, json.loads(record.metrics))]
    return [(agent.reward, agent.metrics) for agent in agents]


def trace_rewards(trace):
    scores = {name: reward[0] for name, reward in trace["rewards"].items() if reward is not None}
    return trace["reward"], {**scores, **trace["metrics"]}


def messages_of(record):
    return [
        {
            "role": message.role,
            "content": message.content or None,
            "calls": [(call.function.name, call.function.arguments) for call in message.tool_calls or []],
        }
        for message in record.messages
    ]


def without_ids(message):
    calls = [(call["name"], call["arguments"]) for call in message.get("tool_calls") or []]
    return {"role": message["role"], "content": message.get("content") or None, "calls": calls}


def usage_of(record):
    return sorted(
        (step.usage.prompt_tokens, step.usage.completion_tokens) for step in record.steps if step.usage
    )


def sent_text(body):
    """A request's model, tools and messages, without ids and without what says how it is to be answered."""
    messages = [
        {
            "role": message["role"],
            "content": message.get("content") or None,
            "calls": [call["function"] for call in message.get("tool_calls") or []],
        }
        for message in body["messages"]
    ]
    return json.dumps([body["model"], body.get("tools") or [], messages], sort_keys=True)
