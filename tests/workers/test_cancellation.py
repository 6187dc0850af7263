"""Clean-up that cancellations do not break off, and the sandboxes whose end it is."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.helpers.cancelling import AGAIN, cancelled_at, nothing_left
from tests.helpers.sandboxes import children
from workers.cancellation import cancel_and_wait, run_to_end
from workers.sandbox.base import Owner, ToolsetSpec
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings


@pytest.mark.parametrize("cancellations", [0, 1, 2, 3])
async def test_work_is_done_to_its_end_and_the_cancellation_heeded_then(cancellations: int) -> None:
    done: list[int] = []

    async def work() -> int:
        for i in range(10):
            await asyncio.sleep(0)
            done.append(i)
        return 7

    task = asyncio.create_task(run_to_end(work()))
    for _ in range(cancellations):
        await asyncio.sleep(0)
        task.cancel()
    if cancellations:
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        assert await task == 7
    assert done == list(range(10))


async def test_a_time_limit_takes_effect_after_the_work() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.1)
        done.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_to_end(work())
    assert done.is_set()


async def test_what_the_work_raises_is_raised_and_of_a_cancelled_caller_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        await run_to_end(fail())
    task = asyncio.create_task(run_to_end(fail()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "the disk is full" in caplog.text


async def test_all_tasks_are_told_before_any_is_waited_for() -> None:
    told: list[int] = []

    async def slow(number: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append(number)
            while len(told) < 3:
                await asyncio.sleep(0)
            raise

    tasks = [asyncio.create_task(slow(i)) for i in range(3)]
    await asyncio.sleep(0)
    ending = asyncio.create_task(cancel_and_wait(tasks))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert sorted(told) == [0, 1, 2] and all(task.cancelled() for task in tasks)


@pytest.mark.parametrize("again", AGAIN)
async def test_a_sandbox_whose_start_or_end_is_cancelled_leaves_no_process_and_no_folder(
    again: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spec = ToolsetSpec("dummy", "tests.helpers.dummy_toolset:DummyToolset")
    settings = SandboxSettings(backend="process")

    async def life() -> None:
        pool = SandboxPool(spec, settings, Owner("r", "w"))
        try:
            session = await pool.acquire("s")
            await pool.release(session)
        finally:
            await pool.close()

    before, had = asyncio.all_tasks(), children(os.getpid())
    suspension, reached = 0, True
    while reached:
        suspension += 1
        reached = await cancelled_at(life(), suspension, again)
        await nothing_left(before)
        async with asyncio.timeout(60):
            while children(os.getpid()) - had:
                await asyncio.sleep(0.02)
        assert os.listdir(tmp_path) == []
    assert suspension > 3
