"""A run made up for exports: three samples of one task, a fourth that failed, and an episode of another."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.synthetic import episode, failed_episode
from tests.cluster.viewer.made_up_runs import write_run
from workers.records import EpisodeRecord, FunctionCall, Message, StepRecord, ToolCall, Usage

TOOLS = [
    {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"file_path": {"type": "string", "description": "Its path."}},
            "required": ["file_path"],
        },
    },
    {
        "name": "pay",
        "description": "Send money.",
        "parameters": {
            "type": "object",
            "properties": {"amount": {"type": "number"}, "to": {"type": "string"}},
            "required": ["amount", "to"],
        },
    },
]
OPENING = [
    Message(role="system", content="You are a bank's assistant."),
    Message(role="user", content="Pay the bill, please."),
]


def sample(number: int, reward: float, answer: str, *, task: int = 0, **changes: Any) -> EpisodeRecord:
    """An episode in which the policy reads a file, perhaps pays, and answers."""
    read = ToolCall(
        id=f"r{number}", function=FunctionCall(name="read_file", arguments='{"file_path": "bill.txt"}')
    )
    first = Message(role="assistant", reasoning_content="I look.", content="I look.", tool_calls=[read])
    bill = Message(role="tool", content="98.70 to Ärzte GmbH", tool_call_id=f"r{number}")
    steps = [_step(0, OPENING, first, [bill])]
    prompt = [*OPENING, first, bill]
    if answer == "paid":
        arguments = json.dumps({"amount": 98.7, "to": "Ärzte GmbH"}, ensure_ascii=False)
        pay = ToolCall(id=f"p{number}", function=FunctionCall(name="pay", arguments=arguments))
        second = Message(role="assistant", tool_calls=[pay])
        done = Message(role="tool", content="error: no funds", tool_call_id=f"p{number}")
        steps.append(
            _step(1, prompt, second, [done]).model_copy(update={"tool_errors": [True], "agent": None})
        )
        prompt = [*prompt, second, done]
    last = Message(role="assistant", content=answer)
    steps.append(_step(len(steps), prompt, last, [], done=True))
    fields: dict[str, Any] = {
        "task_id": f"t{task}",
        "group_id": f"g{task}",
        "sample_index": number % 4,
        "reward": reward,
        "metrics": json.dumps({"utility": float(reward >= 1), "attack_success": None}),
        "messages": [*prompt, last],
        "tool_schemas": json.dumps(TOOLS),
        "steps": steps,
        "initial_state_id": None,
        "initial_state_patch": None,
        "usage": Usage(prompt_tokens=10 * len(steps), completion_tokens=2 * len(steps)),
    }
    return episode(number, **(fields | changes))


def _step(
    index: int, prompt: list[Message], action: Message, observations: list[Message], *, done: bool = False
) -> StepRecord:
    before = [*range(10), *(token for at in range(index) for token in (100 + at, 200 + at, 50 + at))]
    return StepRecord(
        step_index=index,
        prompt_messages=prompt,
        action=action,
        observations=observations,
        tool_errors=[False] if observations else None,
        done=done,
        prompt_token_ids=before,
        completion_token_ids=[100 + index, 200 + index],
        completion_logprobs=[-0.5, -0.25],
        finish_reason="stop" if done else "tool_calls",
        usage=Usage(prompt_tokens=len(before), completion_tokens=2),
        policy_seconds=0.5,
        tools_seconds=0.25,
    )


def write_exported_run(folder: Path) -> Path:
    records = [
        sample(0, 0.0, "I cannot."),
        sample(1, 1.0, "paid"),
        sample(2, 0.5, "Done."),
        failed_episode(3, task_id="t0", group_id="g0", sample_index=3),
        sample(4, 1.0, "Done.", task=1),
    ]
    write_run(folder, records)
    (folder / "config.yaml").write_text(
        "environment: {id: bank, args: {level: 2}}\npolicy: {kind: endpoint, model: m, base_url: 'http://x'}\n"
    )
    return folder
