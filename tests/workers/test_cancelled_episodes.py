"""An episode that is cancelled leaves nothing behind, however near its end it was."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.dummy_episodes import ENVIRONMENT, one, sessions, task
from tests.helpers.rollouts import ORACLE, rollout_worker, spec, usual_pool
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeResult
from workers.rollout_worker import RolloutWorker
from workers.sandbox.base import Sandbox
from workers.sandbox.pool import SandboxPool
from workers.settings import EnvironmentSettings, SandboxSettings, WorkerSettings


@pytest.fixture(scope="module", params=[False, True], ids=["single", "groups"])
def worker(request: pytest.FixtureRequest) -> Iterator[RolloutWorker]:
    """A worker; one that plays the rollouts of a task together."""
    with rollout_worker(ENVIRONMENT, args={"groups": request.param}, sandbox={"max_sessions": 4}) as worker:
        yield worker


class HeldUpCall:
    """Holds up a method's first call until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        real, first = getattr(owner, method), threading.Lock()

        async def gated(*args: Any) -> Any:
            if first.acquire(blocking=False):
                self.reached.set()
                while not self._open.is_set():
                    await asyncio.sleep(0.01)
            return await real(*args)

        monkeypatch.setattr(owner, method, gated)

    def open(self) -> None:
        self._open.set()


def cancelled_at(held_up: HeldUpCall, worker: RolloutWorker, row: dict[str, Any]) -> list[EpisodeResult]:
    """What comes of a unit that is cancelled when it has come to a held_up."""
    size = 3 if worker._player._environment.needs_groups else 1
    unit = [spec(row) for _ in range(size)]
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        playing = threads.submit(worker.play, unit)
        assert held_up.reached.wait(90)
        worker.cancel([unit[0].episode_id])
        for _ in range(2):  # it is told, and hears of it
            worker._on_loop(asyncio.sleep(0))
        held_up.open()
        return playing.result(timeout=90)


def free_places(worker: RolloutWorker) -> int:
    pool = usual_pool(worker)
    assert pool._places is not None
    return pool._places._value


@pytest.mark.parametrize(("owner", "method"), [(SandboxPool, "release"), (Sandbox, "base_state")])
def test_episodes_cancelled_while_they_are_wound_up_give_back_their_sessions_and_places(
    worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    row = task(opening={"state_id": f"wound-up-{method}"})
    assert cancelled_at(HeldUpCall(monkeypatch, owner, method), worker, row) == []
    assert not sessions(worker)
    assert free_places(worker) == 4


@pytest.mark.parametrize(("owner", "method"), [(SandboxPool, "release"), (Sandbox, "base_state")])
def test_the_base_state_of_a_cancelled_episode_is_named_again(
    worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    row = task(opening={"state_id": f"cancelled-at-{method}"})
    assert cancelled_at(HeldUpCall(monkeypatch, owner, method), worker, row) == []
    assert one(worker, row).states.keys() == {f"cancelled-at-{method}"}


def test_the_base_state_of_an_episode_whose_result_came_too_late_is_named_again(
    worker: RolloutWorker,
) -> None:
    row = task(opening={"state_id": "late"})
    late = one(worker, row)
    assert late.states.keys() == {"late"}
    worker.cancel([late.episode_id])
    assert one(worker, row).states.keys() == {"late"}
    assert one(worker, row).states == {}


@pytest.mark.slow
def test_the_base_state_of_a_lost_result_is_named_again_by_a_worker_of_several_processes() -> None:
    settings = WorkerSettings(
        run_id="test-run",
        environment=EnvironmentSettings(id=ENVIRONMENT),
        sandbox=SandboxSettings(backend="process"),
        policy=ORACLE,
        episodes=2,
    )
    worker = LanedWorker(settings, "test-worker")
    try:
        worker.ready()
        row = task(opening={"state_id": "lost"})
        [lost] = worker.play([spec(row)])
        assert lost.states.keys() == {"lost"}
        worker.cancel([lost.episode_id])
        assert worker.play([spec(row)])[0].states.keys() == {"lost"}
        assert worker.play([spec(row)])[0].states == {}
    finally:
        worker.stop()
