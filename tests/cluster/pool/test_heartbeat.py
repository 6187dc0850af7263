"""A worker that is there and does not answer is killed, and the pool hears of it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.pool import ray_worker
from cluster.pool.ray_worker import RayWorker


async def test_a_worker_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray_worker, "_HEARTBEAT_INTERVAL", 0.02)
    monkeypatch.setattr(ray_worker, "_HEARTBEAT_TIMEOUT", 0.02)
    monkeypatch.setattr(ray_worker.ray, "kill", killed.append)

    async def never() -> None:
        await asyncio.Event().wait()

    actor = SimpleNamespace(
        wait_for_stop=SimpleNamespace(remote=never), answers=SimpleNamespace(remote=never)
    )
    assert "it has not answered for" in await RayWorker("worker-0001", actor).wait_for_end()
    assert killed == [actor]


async def test_a_worker_that_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "_HEARTBEAT_INTERVAL", 0.01)
    asked = 0

    async def answer() -> None:
        nonlocal asked
        asked += 1

    async def stopped() -> None:
        while asked < 3:
            await asyncio.sleep(0.01)

    actor = SimpleNamespace(
        wait_for_stop=SimpleNamespace(remote=stopped), answers=SimpleNamespace(remote=answer)
    )
    assert await RayWorker("worker-0001", actor).wait_for_end() == "it was stopped"
