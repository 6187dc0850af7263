"""What the engine leaves behind when its calls are cancelled, or left, wherever, and twice."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.dataset.dataset import Dataset
from cluster.dataset.episodes import iterate_records
from cluster.errors import ConfigError
from cluster.observe.summary import summarise_run
from cluster.rollout_engine import RolloutEngine
from tests.helpers.cancelling import AGAIN, cancelled_at, nothing_left
from tests.helpers.loop_engine import Stage, Tasks, stage_engine


async def all_of(groups: AsyncIterator[Any]) -> list[Any]:
    return [group async for group in groups]


def check_run(folder: Path, stage: Stage) -> None:
    """Every episode on record was played to its end, and what is not there is accounted for."""
    ids = [record.episode_id for record in iterate_records(folder)]
    assert len(ids) == len(set(ids)) and set(ids) <= set(stage.ended)
    summary = summarise_run(folder)
    assert summary.planned == summary.finished + summary.failed + summary.cancelled
    assert stage.playing == 0


@pytest.mark.parametrize("left_by", ["break", "error", "close"])
@pytest.mark.parametrize("then", ["next", "end"])
async def test_an_iteration_that_is_left_is_broken_off_though_what_follows_comes_at_once(
    left_by: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    before = asyncio.all_tasks()
    async with stage_engine(monkeypatch, tmp_path / "run", stage, Tasks(8)) as engine:
        pool = engine._components[0].pool
        stage.open.clear()
        stage.free, stage.holds = 2, "/1"
        kept, closing = engine.rollouts(8), None
        try:
            async for _ in kept if left_by == "close" else engine.rollouts(8):
                if left_by == "error":
                    raise KeyError("of the trainer's")
                break
        except KeyError:
            pass
        if left_by == "close":
            closing = asyncio.create_task(kept.aclose())
            await asyncio.sleep(0)
        if then == "next":
            groups = await asyncio.wait_for(all_of(engine.rollouts(2)), 60)
            assert [len(group.episodes) for group in groups] == [2, 2]
            assert pool.state.in_flight == 0 and stage.playing == 0
    if closing is not None:
        await closing
    await nothing_left(before)
    check_run(tmp_path / "run", stage)
    assert summarise_run(tmp_path / "run").planned == (20 if then == "next" else 16)


@pytest.mark.parametrize("again", AGAIN)
async def test_rollouts_that_are_cancelled_while_they_are_prepared_or_played_give_no_episode_twice(
    again: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    before = asyncio.all_tasks()
    async with stage_engine(monkeypatch, tmp_path / "run", stage, Tasks(5)) as engine:
        pool = engine._components[0].pool
        suspension, reached, played = 0, True, 0
        while reached:
            suspension += 1
            reached = await cancelled_at(all_of(engine.rollouts(2, samples=1)), suspension, again)
            groups = await asyncio.wait_for(all_of(engine.rollouts(1, samples=1)), 60)
            played += len(groups)
            assert pool.state.in_flight == 0 and stage.playing == 0
        assert suspension > 4
        assert len(stage.ended) == len(set(stage.ended)), "an episode was played twice"
    await nothing_left(before)
    check_run(tmp_path / "run", stage)


async def test_a_call_that_is_cancelled_while_it_is_prepared_takes_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    async with stage_engine(monkeypatch, tmp_path / "run", stage, Tasks(5)) as engine:
        first = asyncio.create_task(all_of(engine.rollouts(2, samples=1)))
        await asyncio.sleep(0)
        first.cancel()
        groups = await all_of(engine.rollouts(2, samples=1))
        with pytest.raises(asyncio.CancelledError):
            await first
    assert {group.task_id for group in groups} == {"t0", "t1"}
    assert summarise_run(tmp_path / "run").planned == 2


@pytest.mark.parametrize("again", AGAIN)
async def test_an_engine_whose_end_is_cancelled_anywhere_leaves_a_whole_run(
    again: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspension, reached = 0, True
    while reached:
        suspension += 1
        stage, folder = Stage(), tmp_path / f"{suspension}"
        before = asyncio.all_tasks()
        engine = stage_engine(monkeypatch, folder, stage, Tasks(4))
        await engine.__aenter__()
        stage.open.clear()
        stage.free = 2
        async for _ in engine.rollouts(4):
            break
        reached = await cancelled_at(engine.__aexit__(None, None, None), suspension, again)
        await nothing_left(before)
        check_run(folder, stage)
        assert len(stage.stopped) >= 1
        async with await Dataset.open(folder, folder.name) as dataset:
            assert dataset.manifest.wall_seconds is not None
    assert suspension >= 2


@pytest.mark.parametrize("again", AGAIN)
async def test_an_engine_that_is_cancelled_while_it_comes_up_lets_go_of_all(
    again: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspension, reached = 0, True
    while reached:
        suspension += 1
        stage, folder = Stage(), tmp_path / f"{suspension}"
        before = asyncio.all_tasks()
        engine = stage_engine(monkeypatch, folder, stage, Tasks(4))
        reached = await cancelled_at(engine.__aenter__(), suspension, again)
        await engine.__aexit__(None, None, None)
        await nothing_left(before)
        async with await Dataset.open(folder, folder.name):
            pass
    assert suspension > 3


async def test_a_wrong_call_is_refused_and_the_iteration_that_plays_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    async with stage_engine(monkeypatch, tmp_path / "run", stage, Tasks(4)) as engine:
        stage.open.clear()
        playing = asyncio.create_task(all_of(engine.rollouts(2)))
        while not stage.playing:
            await asyncio.sleep(0)
        wrongs: list[dict[str, Any]] = [
            {"split": "test"},
            {"split": ""},
            {"tasks": ["t9"]},
            {"tasks": 0},
            {"samples": 0},
        ]
        for wrong in wrongs:
            with pytest.raises(ConfigError):
                await all_of(engine.rollouts(**wrong))
        stage.open.set()
        groups = await asyncio.wait_for(playing, 60)
        assert {group.task_id for group in groups} == {"t0", "t1"}
        assert {group.task_id for group in await all_of(engine.rollouts(2))} == {"t2", "t3"}
    check_run(tmp_path / "run", stage)


async def test_two_updates_of_the_policy_do_not_meet_though_the_first_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, overlaps, given = threading.Lock(), [], []

    def update(_: Any, path: str, version: int) -> None:
        overlaps.append(not busy.acquire(blocking=False))
        time.sleep(0.2)
        given.append(version)
        busy.release()

    client = "cluster.policy.oracle.OraclePolicyClient"
    monkeypatch.setattr(f"{client}.update", update)
    monkeypatch.setattr(f"{client}.version", property(lambda _: given[-1] if given else 0))
    engine: RolloutEngine
    async with stage_engine(monkeypatch, tmp_path / "run", Stage(), Tasks(1)) as engine:
        first = asyncio.create_task(engine.update_policy("a"))
        await asyncio.sleep(0.05)
        first.cancel()
        assert await engine.update_policy("b") == 2
        with pytest.raises(asyncio.CancelledError):
            await first
    assert (overlaps, given) == ([False, False], [1, 2])
