"""Conversations with a tool: earlier calls in the prompt show a model of any size how it is done."""

import json
from typing import Any

import verifiers as vf
from datasets import Dataset

SEEN = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}
ASKED = ("rose", "sea", "sun", "moon", "leaf", "wall", "road", "rain")
"""What is asked for turn by turn, whether the policy has called the tool or not."""


class LookingEnv(vf.MultiTurnEnv):
    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        turn = len(state["trajectory"])
        calls = state["trajectory"][-1]["response"].message.tool_calls or []
        if calls:
            return [vf.ToolMessage(content="red", tool_call_id=call.id) for call in calls]
        return [vf.UserMessage(content=f"Look at the {ASKED[turn % len(ASKED)]}.")]


def load_environment() -> vf.Environment:
    prompt: list[dict[str, Any]] = []
    for number, (thing, colour) in enumerate(SEEN.items()):
        call = {"name": "look", "arguments": json.dumps({"thing": thing})}
        prompt += [
            {"role": "user", "content": f"Look at the {thing}."},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": f"c{number}", "type": "function", "function": call}],
            },
            {"role": "tool", "content": colour, "tool_call_id": f"c{number}"},
            {"role": "assistant", "content": f"It is {colour}."},
        ]
    rows = [
        {"prompt": [*prompt, {"role": "user", "content": f"Look at the {thing}."}], "answer": ""}
        for thing in ASKED
    ]
    return LookingEnv(
        eval_dataset=Dataset.from_list(rows),
        tool_defs=[
            vf.Tool(
                name="look",
                description="Look at a thing.",
                parameters={
                    "type": "object",
                    "properties": {"thing": {"type": "string"}},
                    "required": ["thing"],
                },
            )
        ],
        rubric=vf.Rubric(funcs=[lambda state: 1.0]),
        max_turns=4,
    )
