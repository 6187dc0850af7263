"""Made-up episodes of agents in a workspace: files, hidden tests, branches, and versions of the weights."""

import json
from typing import Any

from tests.cluster.synthetic import episode
from workers.records import EpisodeRecord, FunctionCall, Message, StepRecord, ToolCall, Usage

EMPTY_WORKSPACE: dict[str, Any] = {"folder": ".", "files": {}}
WORKSPACE_ID = "shell-empty-workspace"
COLOURS = "\x1b[1;31mFAILED\x1b[0m \x1b[38;5;208mtest_double\x1b[0m \x1b[48;2;10;20;30mlog\x1b[0m"


def _file(text: str) -> dict[str, Any]:
    return {"kind": "file", "size": len(text.encode()), "text": text}


def shell_episode(number: int = 60, **changes: Any) -> EpisodeRecord:
    """An episode in which the policy mends a file, adds one, and fails a hidden test."""
    before, after = "def double(n):\n    return n\n", "def double(n):\n    return n + n\n"
    user = Message(role="user", content="Mend double.py")
    write = ToolCall(id="c1", function=FunctionCall(name="write_file", arguments='{"path": "double.py"}'))
    action = Message(role="assistant", tool_calls=[write])
    answer = Message(role="tool", content=COLOURS, tool_call_id="c1")
    last = Message(role="assistant", content="Mended.")
    patch = [
        {"op": "replace", "path": "/files/double.py", "value": _file(after)},
        {"op": "add", "path": "/files/notes.txt", "value": _file("done\n")},
        {"op": "add", "path": "/files/data.bin", "value": {"kind": "file", "size": 3_000_000}},
        {"op": "add", "path": "/files/tmp", "value": {"kind": "folder"}},
    ]
    initial = [{"op": "add", "path": "/files/double.py", "value": _file(before)}]
    steps = [
        StepRecord(
            step_index=0,
            prompt_messages=[user],
            action=action,
            observations=[answer],
            tool_errors=[True],
            state_patch=json.dumps(patch),
            done=False,
        ),
        StepRecord(
            step_index=1,
            prompt_messages=[user, action, answer],
            action=last,
            observations=[],
            state_patch="[]",
            done=True,
        ),
    ]
    details = {
        "tests": 2,
        "failures": {"test_zero": "line 6: SubmissionFailed: raised IndexError"},
        "agent": {"exit_code": 1, "output": COLOURS * 3},
    }
    fields: dict[str, Any] = {
        "task_id": "fix-double",
        "environment": "shell",
        "suite": None,
        "user_task": None,
        "reward": 0.0,
        "metrics": '{"solved": 0.0, "tests_passed": 0.5}',
        "details": json.dumps(details),
        "connections": json.dumps([{"host": "pypi.org", "port": 443, "outcome": "refused"}]),
        "messages": [user, action, answer, last],
        "initial_state_id": WORKSPACE_ID,
        "initial_state_patch": json.dumps(initial),
        "steps": steps,
    }
    return episode(number, **(fields | changes))


def branched_episode(number: int = 70) -> EpisodeRecord:
    """An agent with a sub-agent: steps 0, 2 and 3 in branch 0, step 1 in branch 1, which left from step 0.

    The weights change before step 3.
    """
    user, answer = Message(role="user", content="go"), Message(role="user", content="more")
    places: list[tuple[int, int, int | None, list[int]]] = [
        (0, 0, None, [1, 2]),
        (1, 1, 0, [1, 2, 0, 1, 7]),
        (2, 0, 0, [1, 2, 0, 1, 3]),
        (3, 0, 2, [1, 2, 0, 1, 3, 20, 21, 4]),
    ]
    steps = [
        StepRecord(
            step_index=index,
            prompt_messages=[user],
            action=Message(role="assistant", content=f"answer {index}"),
            observations=[] if index == 3 else [answer],
            done=index == 3,
            prompt_token_ids=ids,
            completion_token_ids=[10 * index, 10 * index + 1],
            completion_logprobs=[-0.5, -3.0],
            policy_version=2 if index == 3 else 1,
            agent="codex",
            branch=branch,
            parent_step=parent,
            dialect="responses",
        )
        for index, branch, parent, ids in places
    ]
    return episode(
        number,
        task_id="branches",
        environment="shell",
        suite=None,
        user_task=None,
        messages=[user],
        initial_state_id=None,
        initial_state_patch=None,
        steps=steps,
        usage=Usage(),
    )


def trained_records(tasks: int = 6) -> list[EpisodeRecord]:
    """A trainer's run: version 0 fails all tasks but one, and version 3 passes all but one."""
    records: list[EpisodeRecord] = []
    for task in range(tasks):
        for sample, version in enumerate((0, 0, 3, 3)):
            passes = task == 0 if version == 0 else task != 1
            records.append(
                episode(
                    100 + len(records),
                    task_id=f"sum-{task}",
                    group_id=f"g{task}",
                    sample_index=sample,
                    environment="sums",
                    suite=None,
                    user_task=None,
                    reward=float(passes),
                    metrics=json.dumps({"right": float(passes)}),
                    policy_version=version,
                    last_policy_version=version,
                    initial_state_id=None,
                    initial_state_patch=None,
                )
            )
    return records
