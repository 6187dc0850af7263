"""An environment whose reward asks threads that were started when it was loaded: those of a client, say."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import verifiers as vf
from datasets import Dataset


class Background:
    """An event loop in a thread of its own, and a pool of threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.pool = ThreadPoolExecutor(1)
        assert self.pool.submit(int).result() == 0

    async def one(self) -> float:
        return 1.0


def load_environment() -> vf.Environment:
    background = Background()

    async def graded(prompt: Any, **_: Any) -> float:
        if prompt[-1].content == "exit":
            os._exit(7)
        asked = asyncio.run_coroutine_threadsafe(background.one(), background.loop)
        done = asyncio.get_running_loop().run_in_executor(background.pool, float, 1)
        return await asyncio.wrap_future(asked) + await done

    rows = Dataset.from_list([{"question": "ask", "answer": ""}])
    return vf.SingleTurnEnv(eval_dataset=rows, rubric=vf.Rubric(funcs=[graded]))
