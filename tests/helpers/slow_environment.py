"""A verifiers environment whose episodes last until a test lets them end: for runs that have to last."""

import asyncio
import os
from pathlib import Path

import verifiers as vf
from datasets import Dataset


class SlowEnv(vf.SingleTurnEnv):
    def __init__(self, gate: Path | None, free: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.gate = gate
        self.free = free
        self.last = len(self.get_eval_dataset()) - 1

    async def setup_state(self, state: vf.State) -> vf.State:
        number = int(state["answer"])
        if self.gate is not None and number >= self.free:
            (self.gate / f"{number}-{os.getpid()}").touch()
            opens = self.gate / ("end" if number == self.last else "open")
            while not opens.exists():
                await asyncio.sleep(0.05)
        return state


def named_answer(completion: vf.Messages, answer: str) -> float:
    return float(answer in str(completion[-1].content))


def load_environment(tasks: int, gate: str | None = None, free: int = 0) -> vf.Environment:
    """Args:
    tasks: How many.
    gate: A folder. An episode leaves a file there that is named by its task and its process, and lasts
        until there is one named `open`, the last task's until there is one named `end`.
    free: The first so many tasks do not wait.
    """
    rows = [{"question": f"Say {number}.", "answer": str(number)} for number in range(tasks)]
    return SlowEnv(
        gate=None if gate is None else Path(gate),
        free=free,
        eval_dataset=Dataset.from_list(rows),
        rubric=vf.Rubric(funcs=[named_answer]),
    )
