"""Harnesses that are programs: by verifiers' own `eval` on its subprocess runtime, and in our containers.

Messages, tool results, rewards, metrics, stop conditions, token counts and what the policy is sent agree.
"""

import json
import re
import shutil
from typing import Any

import pytest

from tests.helpers import verifiers_runner
from tests.helpers.conversation_policy import ConversationPolicy
from tests.helpers.mock_policy import Fault, Reply
from tests.helpers.v1_containers import TASKS, Containers, bash

pytestmark = [pytest.mark.slow, pytest.mark.docker]
_TIMEOUT = 400
_ALLOW_SUBPROCESS = (
    "from verifiers.v1.harnesses.mini_swe_agent import MiniSWEAgentHarness; "
    "MiniSWEAgentHarness.NEEDS_CONTAINER = False"
)
"""verifiers refuses this harness on its subprocess runtime, where it would run as well."""
_SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo It is tatami."
SCRIPTS: dict[str, list[Reply]] = {
    "bash": [
        bash("cat notes/hint.txt; exit 3"),
        bash("echo tatami > out.txt; echo done >&2"),
        Reply(content="It is tatami."),
    ],
    "mini_swe_agent": [bash("cat notes/hint.txt; exit 3"), bash("echo tatami > out.txt"), bash(_SUBMIT)],
}
_PLACE = re.compile(r"/[\w./-]*(?:subprocess|scratch)/[\w./-]*")
"""Where the program works, which is another folder for each."""


def in_turn(harness: str):
    def choose(body: dict[str, Any]) -> Reply | Fault:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        return SCRIPTS[harness][min(turn, len(SCRIPTS[harness]) - 1)]

    return choose


@pytest.fixture(scope="module", params=SCRIPTS)
def played(request, python, tmp_path_factory):
    """An episode as verifiers has it and as Kumite has it, and what the policy was sent by each."""
    harness: str = request.param
    folder = tmp_path_factory.mktemp("eval")
    with ConversationPolicy(in_turn(harness)) as policy:
        config = {
            "env": {
                "taskset": {"id": TASKS.stem, "modes": ["plain"]},
                "agent": {"max_turns": 6, "harness": {"id": harness}, "runtime": {"type": "subprocess"}},
            },
            "model": "mock",
            "client": {"base_url": policy.base_url, "api_key_var": "NO_SUCH_KEY"},
            "output_dir": str(folder / "out"),
        }
        shutil.copy(TASKS, folder)
        [[episode]] = verifiers_runner.evaluate(
            python.executable, [config], folder, _TIMEOUT, first=_ALLOW_SUBPROCESS
        )
        if any("uv" in str(error) for error in episode["errors"]):
            pytest.skip(f"verifiers' own runtime could not install its program: {episode['errors']}")
        theirs = list(policy.requests)
        policy.requests.clear()
        with Containers(python, policy, harness) as boxes:
            return episode["traces"][0], boxes.play("plain"), theirs, list(policy.requests)


def said_by(message: Any) -> dict[str, Any]:
    """A message without ids and places."""
    get = message.get if isinstance(message, dict) else lambda name: getattr(message, name)
    calls = []
    for call in get("tool_calls") or []:
        function = call if isinstance(call, dict) else call.function
        function = function.get("function", function) if isinstance(function, dict) else function.model_dump()
        calls.append((function["name"], function["arguments"]))
    return {"role": get("role"), "content": _PLACE.sub("PLACE", str(get("content") or "")), "calls": calls}


def test_messages_and_tool_results_are_the_same(played):
    theirs, ours, _, _ = played
    assert ours.error is None
    assert [said_by(message) for message in ours.messages] == [said_by(m) for m in theirs["messages"]]
    assert [tool["name"] for tool in json.loads(ours.tool_schemas)] == theirs["tools"]


def test_rewards_metrics_and_the_end_are_the_same(played):
    theirs, ours, _, _ = played
    scores = {name: reward[0] for name, reward in theirs["rewards"].items()}
    assert (ours.reward, json.loads(ours.metrics)) == (theirs["reward"], {**scores, **theirs["metrics"]})
    assert ours.reward is not None and ours.reward > 0
    assert (ours.stop_reason, ours.is_truncated) == (theirs["stop"], theirs["truncated"])


def test_tokens_are_counted_the_same(played):
    theirs, ours, _, _ = played
    usage = [[step.usage.prompt_tokens, step.usage.completion_tokens] for step in ours.steps if step.usage]
    assert usage == theirs["usage"]
    assert len(ours.steps) == theirs["turns"] == 3


def test_the_policy_is_sent_the_same(played):
    _, _, theirs, ours = played

    def sent(body: dict[str, Any]) -> Any:
        return [body["model"], body.get("tools") or [], [said_by(message) for message in body["messages"]]]

    assert [sent(body) for body in ours] == [sent(body) for body in theirs]
