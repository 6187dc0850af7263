"""What the coordinator and the pool leave behind when they are cancelled, wherever, and twice."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.coordinator import Coordinator
from cluster.errors import RunError
from cluster.observe.progress import Progress
from cluster.policy.weights.full_weights import FullWeights
from cluster.policy.weights.rolling import roll_out
from cluster.policy.weights.versions import VersionFolder
from cluster.pool.ray_worker import PlayFailed, ResultLost
from cluster.pool.worker_pool import WorkerPool
from tests.helpers.cancelling import AGAIN, cancelled_at, cancelling_tasks, nothing_left
from tests.helpers.loop_engine import Stage, config_of
from workers.records import EpisodeResult, EpisodeSpec, episode_id


def units(count: int) -> list[list[EpisodeSpec]]:
    row = {"prompt": [{"role": "user", "content": "go"}]}
    return [
        [
            EpisodeSpec(
                episode_id=episode_id("e", f"t{i}", 0),
                task_id=f"t{i}",
                group_id=f"r/t{i}",
                sample_index=0,
                row=row,
            )
        ]
        for i in range(count)
    ]


class Slow:
    """Records that take some turns of the event loop to be written."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.states: dict[str, str] = {}

    async def add_states(self, states: dict[str, str]) -> None:
        await asyncio.sleep(0)
        self.states |= states

    async def append(self, result: EpisodeResult) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.written.append(result.episode_id)
        await asyncio.sleep(0)


class Play:
    """A coordinator on a stage, and how it is once it has been broken off."""

    def __init__(self, workers: dict[str, Any] | None = None) -> None:
        self.stage, self.records = Stage(), Slow()
        config = config_of(workers=workers or {})
        self.pool = WorkerPool(config.workers, self.stage.ask)
        self.progress = Progress(Console(file=io.StringIO()))
        self.coordinator = Coordinator(config, self.pool, self.records, self.progress, "r", "m")  # type: ignore[arg-type]

    async def check(self, before: set[asyncio.Task[Any]]) -> None:
        own = {*self.pool._tasks, *self.pool._starting}
        await nothing_left(before, lambda task: task not in own)
        assert self.pool.state.in_flight == 0, "a seat stays taken"
        assert self.stage.playing == 0
        assert len(set(self.records.written)) == len(self.records.written)
        assert set(self.records.written) <= set(self.stage.ended), "what was broken off is on record"
        assert self.progress._tally.done == len(self.records.written)
        assert not self.progress._tally.in_flight
        room = self.pool._config.episodes_per_worker * len(self.pool.workers)
        async with asyncio.timeout(60):
            seats = [await self.pool.acquire_seat(1) for _ in range(room)]
        for seat in seats:
            await self.pool.release_seat(seat)


@pytest.mark.parametrize("again", AGAIN)
async def test_a_coordinator_that_is_cancelled_anywhere_leaves_no_seat_no_task_and_no_half_record(
    again: int | None,
) -> None:
    suspension, reached = 0, True
    while reached:
        suspension += 1
        play = Play()
        before = asyncio.all_tasks()
        await play.pool.start(8)
        reached = await cancelled_at(play.coordinator.run(units(8), 8), suspension, again)
        await play.check(before)
        await play.pool.close()
        await nothing_left(before)
    assert suspension > 8


@pytest.mark.parametrize("again", AGAIN)
@pytest.mark.parametrize(
    ("task", "number"),
    [
        ("Coordinator._play_until_recorded", 1),
        ("WorkerPool.play", 2),
        ("WorkerPool.acquire_seat", 5),
        ("WorkerPool._start_worker", 2),
    ],
)
async def test_any_task_of_a_run_may_be_cancelled_anywhere(task: str, number: int, again: int | None) -> None:
    suspension, reached = 0, True
    while reached:
        suspension += 1
        play = Play()
        play.stage.turns = 12  # for some to wait for a seat
        before = asyncio.all_tasks()
        with cancelling_tasks(task, suspension, again, number) as found:
            await play.pool.start(8)
            running = asyncio.create_task(play.coordinator.run(units(8), 8))
            done, _ = await asyncio.wait([running], timeout=60)
            assert done
            if not running.cancelled():
                running.result()
        reached = bool(found) and found[0].suspensions >= suspension
        await play.check(before)
        await play.pool.close()
        await nothing_left(before)
        assert sorted(play.stage.stopped) == sorted(set(play.stage.stopped))
    assert suspension > 1


@pytest.mark.parametrize("again", AGAIN)
async def test_a_pool_whose_end_is_cancelled_anywhere_ends_all_its_workers(again: int | None) -> None:
    suspension, reached = 0, True
    while reached:
        suspension += 1
        play = Play()
        before = asyncio.all_tasks()
        await play.pool.start(4)
        names = [worker.name for worker in play.pool.workers]
        try:
            reached = await cancelled_at(play.pool.close(), suspension, again)
        finally:
            assert set(names) <= set(play.stage.stopped)
        await nothing_left(before)
    assert suspension > 1


async def test_who_waits_for_a_seat_when_the_pool_is_closed_is_told() -> None:
    play = Play(workers={"max": 1, "episodes_per_worker": 1})
    await play.pool.start(1)
    await play.pool.acquire_seat(1)
    waiting = asyncio.create_task(play.pool.acquire_seat(1))
    await asyncio.sleep(0)
    await play.pool.close()
    with pytest.raises(RunError, match="given back"):
        await asyncio.wait_for(waiting, 60)


@pytest.mark.parametrize("error", [ResultLost, PlayFailed])
async def test_a_worker_that_is_alive_takes_back_what_lost_results_have_told(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play()
    await play.pool.start(1)

    async def lose(_: Any, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        raise error("lost")

    monkeypatch.setattr("tests.helpers.loop_engine.StageWorker.play", lose)
    [unit] = units(1)
    with pytest.raises(error):
        await play.pool.play(unit, await play.pool.acquire_seat(1))
    assert play.stage.cancelled == [unit[0].episode_id], "else a base state would be named by nobody"
    await play.pool.close()


async def test_base_states_of_results_that_come_too_late_are_kept() -> None:
    play = Play()
    attempt: asyncio.Future[list[EpisodeResult]] = asyncio.get_running_loop().create_future()
    await play.pool.start(1)
    [unit] = units(1)
    [late] = await play.pool.workers[0].play(unit)
    attempt.set_result([late.model_copy(update={"states": {"base": "{}"}})])
    await play.coordinator._keep_states(attempt)
    assert play.records.states == {"base": "{}"}
    await play.pool.close()


async def test_a_change_of_weights_that_is_cancelled_leaves_weights_that_have_a_name(tmp_path: Path) -> None:
    for suspension in range(1, 5):
        loaded: list[int] = []

        async def reload(version: int, loaded: list[int] = loaded) -> None:
            await asyncio.sleep(0)
            loaded.append(version)
            await asyncio.sleep(0)

        weights = FullWeights(VersionFolder(tmp_path), reload)
        await cancelled_at(weights.load(1), suspension, 1)
        assert (loaded or [0])[-1] == weights.version and not weights.spoilt


@pytest.mark.parametrize("again", AGAIN)
async def test_a_roll_out_of_weights_that_is_cancelled_leaves_all_replicas_with_the_same(
    again: int | None,
) -> None:
    suspension, reached = 0, True
    while reached:
        suspension += 1
        has = {"a": 0, "b": 0, "c": 0}

        async def load(replica: str, version: int, has: dict[str, int] = has) -> None:
            await asyncio.sleep(0)
            has[replica] = version
            await asyncio.sleep(0)

        reached = await cancelled_at(roll_out([(name, 0) for name in has], load, 1), suspension, again)
        assert len(set(has.values())) == 1
    assert suspension > 6
