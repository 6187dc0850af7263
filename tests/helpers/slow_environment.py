"""A verifiers environment whose episodes take as long as one says: for runs that have to last."""

import asyncio

import verifiers as vf
from datasets import Dataset


class SlowEnv(vf.SingleTurnEnv):
    def __init__(self, seconds: float, last_seconds: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds
        self.last_seconds = last_seconds
        self.last = len(self.get_eval_dataset()) - 1

    async def setup_state(self, state: vf.State) -> vf.State:
        is_last = int(state["answer"]) == self.last
        await asyncio.sleep(self.last_seconds if is_last else self.seconds)
        return state


def named_answer(completion: vf.Messages, answer: str) -> float:
    return float(answer in str(completion[-1].content))


def load_environment(tasks: int, seconds: float, last_seconds: float | None = None) -> vf.Environment:
    """Args:
    tasks: How many.
    seconds: How long an episode takes.
    last_seconds: How long the last task's take, if not as long as the others.
    """
    rows = [{"question": f"Say {number}.", "answer": str(number)} for number in range(tasks)]
    return SlowEnv(
        seconds=seconds,
        last_seconds=seconds if last_seconds is None else last_seconds,
        eval_dataset=Dataset.from_list(rows),
        rubric=vf.Rubric(funcs=[named_answer]),
    )
