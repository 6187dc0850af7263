"""An environment whose code does what real ones do: it blocks, uses signals, leaks, dies, as a task says."""

import asyncio
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import verifiers as vf
from datasets import Dataset

LEAK: list[bytearray] = []


def graded(prompt: Any, **_: Any) -> float:
    """Returns the process's id, so that a test knows who played what."""
    what, _space, number = str(prompt[-1].content).partition(" ")
    match what:
        case "regex":
            re.match(r"(a+)+$", "a" * 40 + "!")
        case "stubborn":
            while True:
                try:
                    time.sleep(60)
                except BaseException:  # noqa: BLE001 - what no signal ends
                    continue
        case "careless":
            try:
                time.sleep(600)
            except Exception:  # noqa: BLE001 - as many graders have it
                return 0.0
        case "sleep":
            time.sleep(float(number))
        case "alarm":
            return _alarmed()
        case "exit":
            os._exit(7)
        case "leave":
            try:
                exec("exit(3)", {"exit": sys.exit})  # as a grader runs a policy's program
            except Exception:  # noqa: BLE001 - as many graders have it
                return 0.0
        case "interrupt":
            raise KeyboardInterrupt
        case "cancelled":
            raise asyncio.CancelledError
        case "grouped":
            raise BaseExceptionGroup("of its own", [KeyboardInterrupt()])
        case "leak":
            LEAK.append(bytearray(os.urandom(1 << 20) * 80))
        case "key":
            raise ValueError(f"the key {os.environ['BLOCKING_API_KEY']} is refused")
        case _:
            pass
    return float(os.getpid())


def _alarmed() -> float:
    class Late(Exception):
        pass

    def ring(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        time.sleep(30)
    except Late:
        return 1.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return 0.0


async def graded_by_a_judge(prompt: Any, **_: Any) -> float:
    """Asks a judge that is away until it is there."""
    while prompt[-1].content == "retries for ever":
        try:
            await asyncio.sleep(0.05)
        except:  # noqa: E722 - which catches the cancellation, too
            continue
    return 0.0


def note_down(file: Path) -> None:
    with file.open("a") as notes:
        notes.write(f"{os.getpid()}\n")


class Blocking(vf.SingleTurnEnv):
    def __init__(self, notes: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.notes = notes

    async def setup_state(self, state: vf.State) -> vf.State:
        if str(state["prompt"][-1].content) == "setup":
            time.sleep(600)  # noqa: ASYNC251 - as environments do
        return state

    @vf.teardown
    async def end(self) -> None:
        if self.notes:
            note_down(Path(self.notes))


def load_environment(notes: str = "") -> vf.Environment:
    rows = Dataset.from_list([{"question": "nothing", "answer": ""}])
    return Blocking(notes, eval_dataset=rows, rubric=vf.Rubric(funcs=[graded, graded_by_a_judge]))
