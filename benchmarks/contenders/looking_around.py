"""An environment of two turns an episode, for both sides of the benchmark of an endpoint."""

import verifiers as vf
from datasets import Dataset


def look(where: str) -> str:
    """Looks.

    Args:
        where: Where to.
    """
    return f"seen {where}"


def has_looked(completion: vf.Messages) -> float:
    """Whether it has."""
    return float(any(message["role"] == "tool" for message in completion))


def load_environment(tasks: int) -> vf.Environment:
    """As many tasks as wanted."""
    rows = [{"question": f"Look around, {index}.", "answer": ""} for index in range(tasks)]
    rubric = vf.Rubric(funcs=[has_looked])
    return vf.ToolEnv(tools=[look], eval_dataset=Dataset.from_list(rows), rubric=rubric, max_turns=4)
