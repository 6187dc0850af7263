"""A taskset of verifiers' v1 API: sums in words, with a typed task, a reward and a metric."""

import re
from collections.abc import Iterator

import verifiers.v1 as vf

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class SumData(vf.TaskData):
    """What a task holds, beside its prompt."""

    answer: str
    """The sum, in digits; the oracle says it."""


class SumTask(vf.Task[SumData]):
    """One sum."""

    @vf.reward
    async def correct(self, trace: vf.Trace) -> float:
        """Whether the last number of the answer is the sum."""
        numbers = re.findall(r"\d+", trace.last_reply)
        return float(numbers[-1:] == [self.data.answer])

    @vf.metric
    async def brief(self, trace: vf.Trace) -> float:
        """Whether the answer is nothing but a number."""
        return float(trace.last_reply.isdigit())


class WordSumsConfig(vf.TasksetConfig):
    """What `environment.args.taskset` may say."""

    largest: int = 9
    """The largest summand."""


class WordSums(vf.Taskset[SumTask, WordSumsConfig]):
    """All sums of two numbers that have a word."""

    def load(self) -> Iterator[SumTask]:
        """The tasks, in order."""
        summands = range(self.config.largest + 1)
        for number, (a, b) in enumerate((a, b) for a in summands for b in summands):
            prompt = f"What is {WORDS[a]} plus {WORDS[b]}? Answer with a number, in digits."
            yield SumTask(SumData(idx=number, prompt=prompt, answer=str(a + b)), self.config.task)


__all__ = ["WordSums"]
