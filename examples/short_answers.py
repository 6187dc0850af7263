"""An environment to learn in within minutes: a question, and a reward for a short and right answer."""

import verifiers as vf
from datasets import Dataset

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Egypt": "Cairo",
    "Russia": "Moscow",
    "England": "London",
}
HELD_OUT = {"Norway": "Oslo", "Portugal": "Lisbon", "Greece": "Athens", "Poland": "Warsaw"}
LONG = 16
"""Words from which on an answer earns nothing for being short."""


def right(completion: vf.Messages, answer: str) -> float:
    """1.0 when the capital is named."""
    return float(answer.lower() in str(completion[-1].content).lower())


def short(completion: vf.Messages) -> float:
    """1.0 for one word, less by equal steps for each one more; an empty answer earns nothing."""
    words = len(str(completion[-1].content).split())
    return max(0.0, 1.0 - (words - 1) / (LONG - 1)) if words else 0.0


def questions(capitals: dict[str, str]) -> Dataset:
    """A task for each country."""
    return Dataset.from_list(
        [
            {
                "question": f"What is the capital of {country}?",
                "answer": capital,
                "info": {"task_id": country},
            }
            for country, capital in capitals.items()
        ]
    )


def load_environment(tasks: int = len(CAPITALS)) -> vf.Environment:
    """The environment, with so many of the countries to learn from, and others to evaluate on."""
    return vf.SingleTurnEnv(
        dataset=questions(dict(list(CAPITALS.items())[:tasks])),
        eval_dataset=questions(HELD_OUT),
        rubric=vf.Rubric(funcs=[right, short], weights=[0.5, 0.5]),
    )
