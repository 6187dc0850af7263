"""A verifiers environment by the book: reach a number with a calculator tool. Nothing of Kumite in it."""

import random

import verifiers as vf
from datasets import Dataset


def add(a: int, b: int) -> int:
    """Add two whole numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a * b


class CountdownEnv(vf.ToolEnv):
    """Each episode counts its tool calls, and ends once the target has been computed."""

    async def setup_state(self, state: vf.State) -> vf.State:
        """Nothing has been computed yet."""
        state["computed"] = []
        return state

    async def env_response(self, messages: vf.Messages, state: vf.State, **kwargs) -> vf.Messages:
        """Runs the tools, and keeps what they gave."""
        answers = await super().env_response(messages, state, **kwargs)
        state["computed"] += [answer.content for answer in answers]
        return answers


def computed_target(state: vf.State, answer: str) -> float:
    """1.0 when a tool call gave the target."""
    return float(answer in state["computed"])


def answered_target(completion: vf.Messages, answer: str) -> float:
    """1.0 when the last message names the target."""
    return float(bool(completion) and answer in str(completion[-1].content))


def load_environment(tasks: int = 16, seed: int = 0) -> vf.Environment:
    """The environment, with so many random targets."""
    rng = random.Random(seed)
    rows = []
    for _ in range(tasks):
        a, b, c = (rng.randint(2, 12) for _ in range(3))
        rows.append({"question": f"What is ({a} + {b}) * {c}? Use the tools.", "answer": str((a + b) * c)})
    return CountdownEnv(
        tools=[add, multiply],
        eval_dataset=Dataset.from_list(rows),
        rubric=vf.Rubric(funcs=[computed_target, answered_target], weights=[0.5, 0.5]),
        max_turns=6,
    )
