"""A verifiers environment whose episodes take as long as one says: for runs that have to last."""

import asyncio

import verifiers as vf
from datasets import Dataset


class SlowEnv(vf.SingleTurnEnv):
    def __init__(self, seconds: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    async def setup_state(self, state: vf.State) -> vf.State:
        await asyncio.sleep(self.seconds)
        return state


def named_answer(completion: vf.Messages, answer: str) -> float:
    return float(answer in str(completion[-1].content))


def load_environment(tasks: int, seconds: float) -> vf.Environment:
    rows = [{"question": f"Say {number}.", "answer": str(number)} for number in range(tasks)]
    return SlowEnv(
        seconds=seconds, eval_dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[named_answer])
    )
