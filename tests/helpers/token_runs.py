"""Runs whose tokens are right: a dataset of two-turn episodes, made with a tokenizer of its own."""

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.dataset.dataset import Dataset
from tests.cluster.synthetic import episode, result
from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.chat_template import ChatTemplate
from workers.records import EpisodeRecord, FunctionCall, Message, StepRecord, ToolCall, Usage

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
        template.extended(first, sampled, messages[2:], TOOLS) if exact else template.ids(messages, TOOLS)
    )
    last = template.encode("Done." + END)
    steps = [
        _step(0, [asked], acted, first, sampled, done=False),
        _step(1, [asked, acted, answer], Message(role="assistant", content="Done."), second, last, done=True),
    ]
    fields: dict[str, Any] = {"steps": steps, "tool_schemas": json.dumps(TOOLS), "initial_state_id": None}
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
        observations=[],
        done=done,
        prompt_token_ids=prompt,
        completion_token_ids=sampled,
        completion_logprobs=[-0.5] * len(sampled),
        policy_version=3,
        finish_reason="stop",
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=len(sampled)),
    )
