"""Runs that are right in all that `kumite verify` looks at, of two-turn episodes with a tokenizer."""

import json
import time
from pathlib import Path
from typing import Any

import yaml

from cluster.dataset.dataset import Dataset
from tests.cluster.synthetic import episode, result
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.policy.chat_template import ChatTemplate
from workers.records import EpisodeRecord, FunctionCall, Message, StepRecord, ToolCall, Usage, episode_id

TOOLS = [{"name": "pay", "description": "Pay.", "parameters": {"type": "object", "properties": {}}}]


def two_turns(
    template: ChatTemplate, number: int = 0, *, exact: bool = True, **changes: Any
) -> EpisodeRecord:
    """A call, its answer, and a last word; not `exact`: the second prompt is as the template writes it."""
    asked = Message(role="user", content="Pay Bob.")
    call = ToolCall(id="c1", function=FunctionCall(name="pay", arguments="{}"))
    acted = Message(role="assistant", content="", tool_calls=[call])
    answer = Message(role="tool", content="paid", tool_call_id="c1")
    first = template.ids([asked.model_dump()], TOOLS)
    sampled = template.encode('<tool_call>{"name":"pay","arguments":{}}</tool_call>' + END)
    messages = [message.model_dump() for message in (asked, acted, answer)]
    second = (
        template.extend_prompt(first, sampled, messages[2:], TOOLS)
        if exact
        else template.ids(messages, TOOLS)
    )
    last = template.encode("Done." + END)
    said = Message(role="assistant", content="Done.")
    steps = [
        _step(0, [asked], acted, first, sampled, done=False),
        _step(1, [asked, acted, answer], said, second, last, done=True),
    ]
    task_id = f"banking/user_task_{number}"
    fields: dict[str, Any] = {
        "episode_id": episode_id("agentdojo", task_id, 0),
        "group_id": f"run-1/{task_id}",
        "messages": [asked, acted, answer, said],
        "steps": steps,
        "tool_schemas": json.dumps(TOOLS),
        "initial_state_id": None,
        "initial_state_patch": None,
        "last_policy_version": 3,
        "usage": Usage(prompt_tokens=len(first) + len(second), completion_tokens=len(sampled) + len(last)),
        "started_at": time.time(),
    }
    return episode(number, **(fields | changes))


async def write_run(folder: Path, episodes: list[EpisodeRecord], **policy: Any) -> Path:
    """A run folder that holds these, and a config that names their tokenizer."""
    async with await Dataset.open(folder, "run-1") as dataset:
        for record in episodes:
            await dataset.append(result(record))
        await dataset.commit()
    config = {"environment": {"id": "agentdojo"}, "policy": {"kind": "vllm", **policy}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def template_in(folder: Path) -> ChatTemplate:
    return ChatTemplate(str(make_tokenizer(folder)))


def _step(
    index: int, seen: list[Message], action: Message, prompt: list[int], sampled: list[int], done: bool
) -> StepRecord:
    return StepRecord(
        step_index=index,
        prompt_messages=seen,
        action=action,
        observations=[] if done else [Message(role="tool", content="paid", tool_call_id="c1")],
        done=done,
        prompt_token_ids=prompt,
        completion_token_ids=sampled,
        completion_logprobs=[-0.5] * len(sampled),
        policy_version=3,
        finish_reason="tool_calls" if action.tool_calls else "stop",
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(sampled)),
    )
