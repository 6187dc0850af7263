"""Writes a dataset and dies by SIGKILL; run by test_dataset.py as a process of its own.

`appends RUN_DIR FIRST` appends episodes from FIRST on until it is killed, and prints the
number of each that was acknowledged.

`steps FOLDER` forks one writer for each durable step there is, in a run folder of its own,
`FOLDER/<n>`, and kills it just before its step n. What was acknowledged is in `FOLDER/<n>.acknowledged`. It
ends when a writer comes through alive.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.dataset.dataset import Dataset
from tests.cluster.synthetic import episode, failed_episode, result


async def append_for_ever(run_dir: Path, first: int) -> None:
    dataset = await Dataset.open(run_dir, "run-1", segment_records=5)
    numbers = iter(range(first, first + 10**6))

    async def append() -> None:
        for number in numbers:
            await dataset.append(result(episode(number), {f"state{number % 50}": "{}"}))
            print(number, flush=True)

    await asyncio.gather(*(append() for _ in range(8)))


async def write_a_little(run_dir: Path, acknowledge: Callable[[int], object]) -> None:
    dataset = await Dataset.open(run_dir, "run-1", segment_records=2)
    for number in range(3):
        record = failed_episode(number) if number == 1 else episode(number)
        await dataset.append(result(record, {"base": "{}"}))
        acknowledge(number)
    await dataset.commit(wall_seconds=1.0)
    await dataset.close()


def die_before_step(step: int) -> None:
    """Have the calls that change what is on disk counted, and this process killed before one of them."""
    remaining = [step]

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            remaining[0] -= 1
            if remaining[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    os.fsync = dying(os.fsync)
    Path.replace = dying(Path.replace)
    Path.unlink = dying(Path.unlink)


def write_until_killed(run_dir: Path, step: int) -> None:
    with run_dir.with_suffix(".acknowledged").open("wb", buffering=0) as acknowledged:
        die_before_step(step)
        asyncio.run(write_a_little(run_dir, lambda number: acknowledged.write(f"{number}\n".encode())))


def die_at_every_step(folder: Path) -> None:
    # The first writing loads much of Arrow; done here, the forked writers need not.
    asyncio.run(write_a_little(folder / "unharmed", lambda _: None))
    for step in range(1000):
        child = os.fork()
        if child == 0:
            write_until_killed(folder / str(step), step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    if sys.argv[1] == "appends":
        asyncio.run(append_for_ever(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        die_at_every_step(Path(sys.argv[2]))
