"""A conversation of three turns, without tools: a question, and "Go on." twice."""

from typing import Any

import verifiers as vf
from datasets import Dataset


class DialogueEnv(vf.MultiTurnEnv):
    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        return [vf.UserMessage(content="Go on.")]


def load_environment() -> vf.Environment:
    rows = [{"question": question, "answer": ""} for question in ("Tell me of the sea.", "Name a colour.")]
    return DialogueEnv(
        eval_dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[lambda state: 1.0]), max_turns=3
    )
