"""A taskset of verifiers' v1 API as gsm8k is one: word problems of a single turn, answered by a number."""

import re
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf


class ProblemData(vf.TaskData):
    """A problem, with its answer."""

    answer: str


class ProblemTask(vf.Task[ProblemData]):
    """One problem."""

    @vf.reward
    async def correct(self, trace: Any) -> float:
        """Whether the last number of the answer is the right one."""
        return float(re.findall(r"-?\d+", trace.last_reply)[-1:] == [self.data.answer])


class WordProblemsConfig(vf.TasksetConfig):
    """What may be set."""

    problems: int = 32
    """How many there are."""


class WordProblems(vf.Taskset[ProblemTask, WordProblemsConfig]):
    """Problems that differ in their numbers."""

    def load(self) -> Iterator[ProblemTask]:
        """The problems, in order."""
        for number in range(self.config.problems):
            prompt = (
                f"Ann has {number} apples and picks {number + 3} more. She gives {number // 2} to Ben. "
                "How many has she left? Think step by step, and end with the number."
            )
            answer = str(2 * number + 3 - number // 2)
            yield ProblemTask(ProblemData(idx=number, prompt=prompt, answer=answer), self.config.task)


__all__ = ["WordProblems"]
