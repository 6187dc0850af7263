"""A verifiers environment whose episodes only wait: what they cost is what a run costs."""

import asyncio
from typing import Any

import verifiers as vf
from datasets import Dataset


class WaitingEnv(vf.SingleTurnEnv):
    def __init__(self, seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds

    async def setup_state(self, state: vf.State) -> vf.State:
        await asyncio.sleep(self.seconds)
        return state


def _reward(state: vf.State) -> float:
    return 1.0


def load_environment(tasks: int, seconds: float) -> vf.Environment:
    """So many tasks, whose episodes last so many seconds."""
    rows = [{"question": f"Wait, {number}.", "answer": "I waited."} for number in range(tasks)]
    rubric = vf.Rubric(funcs=[_reward])
    return WaitingEnv(seconds=seconds, eval_dataset=Dataset.from_list(rows), rubric=rubric)
