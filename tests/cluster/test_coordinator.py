"""The coordinator against a pool that fails on command; dataset and records are the real ones."""

import asyncio
import io
import json
import random
from collections import Counter
from typing import Literal

import pytest
from datasets import load_dataset
from rich.console import Console

from cluster.config import RunConfig
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.durable import RunFolderError
from cluster.dataset.shards import iterate_episodes
from cluster.errors import RunError
from cluster.observe.progress import Progress
from cluster.observe.summary import summarise_run
from cluster.plan.groups import Groups
from cluster.pool.ray_worker import NodeLost, WorkerDied
from workers.records import (
    EpisodeError,
    EpisodeRecord,
    EpisodeResult,
    EpisodeSpec,
    TaskLabels,
    Timings,
    Usage,
    episode_id,
)


def specs(count, samples=1):
    return [
        EpisodeSpec(
            episode_id=episode_id("e", f"t{i}", sample),
            task_id=f"t{i}",
            group_id=f"r/t{i}",
            sample_index=sample,
            row={"prompt": [{"role": "user", "content": "go"}]},
        )
        for i in range(count)
        for sample in range(samples)
    ]


def result(spec, *, status: Literal["finished", "failed"] = "finished", failure=None):
    failed = status == "failed"
    died = EpisodeError(stage="tools", kind="sandbox", type="SandboxDied", message="it died")
    record = EpisodeRecord(
        episode_id=spec.episode_id,
        task_id=spec.task_id,
        group_id=spec.group_id,
        sample_index=0,
        run_id="r",
        environment="e",
        status=status,
        reward=None if failed else 1.0,
        error=died if failed else None,
        messages=[],
        steps=[],
        model="m",
        usage=Usage(),
        timings=Timings(),
        attempt=spec.attempt,
        started_at=0.0,
        worker_id="w",
        node_id="n",
    )
    return EpisodeResult(
        episode_id=spec.episode_id,
        status=status,
        failure=failure,
        reward=record.reward,
        metrics={},
        error_stage="tools" if failed else None,
        labels=TaskLabels(),
        usage=Usage(),
        timings=Timings(),
        record=record.model_dump_json(),
    )


class Pool:
    """Plays as `act` says; remembers how much was in flight."""

    def __init__(self, act, capacity=4):
        self.act = act
        self.capacity = capacity
        self.seats = asyncio.Semaphore(capacity)
        self.taken = set()
        self.in_flight = self.most = 0
        self.played = []
        self.expected = []
        self.told = []

    def set_version(self, version):
        self.told.append(version)

    def expect(self, episodes):
        self.expected.append(episodes)

    async def acquire_seat(self, places):
        await self.seats.acquire()
        seat = object()
        self.taken.add(seat)
        return seat

    async def release_seat(self, seat):
        if seat in self.taken:
            self.taken.remove(seat)
            self.seats.release()

    async def play(self, unit, seat):
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self.played += [spec.task_id for spec in unit]
        try:
            await asyncio.sleep(0)
            return await self.act(unit)
        finally:
            self.in_flight -= 1
            await self.release_seat(seat)


@pytest.fixture
async def dataset(tmp_path):
    async with await Dataset.open(tmp_path / "r", "r") as opened:
        yield opened


def coordinator(pool, dataset, groups=None, version=lambda: None, **episode):
    config = RunConfig.model_validate(
        {"environment": {"id": "e"}, "policy": {"kind": "oracle"}, "episode": episode}
    )
    progress = Progress(Console(file=io.StringIO()))
    return Coordinator(config, pool, dataset, progress, "r", "m", groups, version)


async def read_recorded(dataset):
    await dataset.commit()
    tables = list(iterate_episodes(dataset.run_dir, ["task_id", "status", "attempt", "error", "reward"]))
    return {row["task_id"]: row for table in tables for row in table.to_pylist()}


async def test_every_episode_is_recorded_and_no_more_are_in_flight_than_fit(dataset):
    async def act(unit):
        return [result(spec) for spec in unit]

    pool = Pool(act, capacity=4)
    await coordinator(pool, dataset).run([spec] for spec in specs(25))
    assert len(await read_recorded(dataset)) == 25
    assert pool.most <= 4


async def test_the_pool_is_told_what_is_left(dataset):
    async def act(unit):
        return [result(spec) for spec in unit]

    pool = Pool(act)
    await coordinator(pool, dataset).run(([spec] for spec in specs(3)), 3)
    assert pool.expected == [3, 2, 1, 0]


async def test_units_are_made_only_as_there_is_room(dataset):
    made = 0

    def units():
        nonlocal made
        for spec in specs(40):
            made += 1
            yield [spec]

    gate = asyncio.Event()

    async def act(unit):
        await gate.wait()
        return [result(spec) for spec in unit]

    pool = Pool(act, capacity=3)
    running = asyncio.create_task(coordinator(pool, dataset).run(units()))
    while pool.in_flight < 3:
        await asyncio.sleep(0.01)
    assert made <= 4
    gate.set()
    await running
    assert made == 40


async def test_an_episode_whose_sandbox_died_is_played_again(dataset):
    async def act(unit):
        [spec] = unit
        return [result(spec, status="failed", failure="sandbox") if spec.attempt == 1 else result(spec)]

    await coordinator(Pool(act), dataset, attempts={"sandbox": 2, "worker": 2}).run([specs(1)])
    [row] = (await read_recorded(dataset)).values()
    assert (row["status"], row["attempt"]) == ("finished", 2)


async def test_an_episode_whose_version_has_gone_again_and_again_has_its_attempts_at_the_policy_left(dataset):
    failures = ["version", "version", "policy", "version", "version"]

    async def act(unit):
        [spec] = unit
        failed = spec.attempt <= len(failures)
        return [result(spec, status="failed", failure=failures[spec.attempt - 1]) if failed else result(spec)]

    await coordinator(Pool(act), dataset).run([specs(1)])
    [row] = (await read_recorded(dataset)).values()
    assert (row["status"], row["attempt"]) == ("finished", 6)


async def test_an_episode_whose_version_always_goes_is_not_played_for_ever(dataset):
    async def act(unit):
        return [result(spec, status="failed", failure="version") for spec in unit]

    await coordinator(Pool(act), dataset, attempts={"version": 3}).run([specs(1)])
    [row] = (await read_recorded(dataset)).values()
    assert (row["status"], row["attempt"]) == ("failed", 3)


async def test_an_episode_that_fails_by_itself_is_not_played_again(dataset):
    async def act(unit):
        return [result(spec, status="failed") for spec in unit]

    pool = Pool(act)
    await coordinator(pool, dataset, attempts={"sandbox": 3}).run([specs(1)])
    assert pool.played == ["t0"]
    assert (await read_recorded(dataset))["t0"]["reward"] is None


async def test_an_episode_that_kills_its_worker_each_time_is_recorded_as_failed(dataset):
    async def act(unit):
        if unit[0].task_id == "t1":
            raise WorkerDied("worker-0001 died: SIGKILL")
        return [result(spec) for spec in unit]

    pool = Pool(act)
    await coordinator(pool, dataset, attempts={"sandbox": 2, "worker": 2}).run([spec] for spec in specs(3))
    rows = await read_recorded(dataset)
    assert pool.played.count("t1") == 2
    assert rows["t1"]["status"] == "failed"
    assert rows["t1"]["error"]["stage"] == "worker"
    assert "SIGKILL" in rows["t1"]["error"]["message"]
    assert rows["t0"]["status"] == rows["t2"]["status"] == "finished"


async def test_an_episode_under_which_nodes_are_lost_is_played_on(dataset):
    async def act(unit):
        if unit[0].attempt < 5:
            raise NodeLost("worker-0001 died: its node has died")
        return [result(spec) for spec in unit]

    await coordinator(Pool(act), dataset, attempts={"worker": 1, "node": 5}).run([specs(1)])
    [row] = (await read_recorded(dataset)).values()
    assert (row["status"], row["attempt"]) == ("finished", 5)


async def test_a_group_is_played_again_as_a_whole(dataset):
    async def act(unit):
        failed = unit[0].attempt == 1
        return [
            result(spec, status="failed", failure="sandbox") if failed and i == 0 else result(spec)
            for i, spec in enumerate(unit)
        ]

    pool = Pool(act)
    await coordinator(pool, dataset, attempts={"sandbox": 2, "worker": 2}).run([specs(3)])
    assert len(pool.played) == 6
    assert {row["attempt"] for row in (await read_recorded(dataset)).values()} == {2}


async def test_episodes_are_dispatched_with_the_policys_version_and_workers_hear_of_a_new_one(
    dataset, monkeypatch
):
    monkeypatch.setattr("cluster.coordinator._VERSION_POLL", 0.01)
    versions, dispatched = [3], []

    async def act(unit):
        dispatched.append(unit[0].policy_version)
        versions[0] += 1
        while pool.told[-1:] != versions:
            await asyncio.sleep(0.01)
        return [result(spec) for spec in unit]

    pool = Pool(act, capacity=1)
    units = [[spec] for spec in specs(3)]
    await coordinator(pool, dataset, version=lambda: versions[0]).run(units, 3)
    assert dispatched == [3, 4, 5]
    assert pool.told == [4, 5, 6]


async def test_a_run_without_workers_ends_with_their_error(dataset):
    async def act(unit):
        raise RunError("there is no worker left")

    with pytest.raises(RunError, match="no worker left"):
        await asyncio.wait_for(coordinator(Pool(act, capacity=1), dataset).run([s] for s in specs(9)), 20)


async def test_cancelling_keeps_what_had_ended(dataset):
    stuck = asyncio.Event()

    async def act(unit):
        if unit[0].task_id == "t2":
            stuck.set()
            await asyncio.Event().wait()
        return [result(spec) for spec in unit]

    running = asyncio.create_task(coordinator(Pool(act, capacity=1), dataset).run([s] for s in specs(9)))
    await stuck.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert set(await read_recorded(dataset)) == {"t0", "t1"}


@pytest.mark.parametrize("capacity", [1, 3, 100])
async def test_of_an_over_sampled_group_as_many_are_kept_as_asked_and_the_rest_is_cancelled(
    dataset, capacity
):
    stopped = []

    async def act(unit):
        if unit[0].sample_index in (1, 4):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.append(unit[0].episode_id)
                raise
        return [result(spec) for spec in unit]

    groups, pool = Groups(5), Pool(act, capacity=capacity)
    all_of = specs(3, samples=8)
    if capacity == 1:  # one that never ends would hold up all others
        all_of = [spec for spec in all_of if spec.sample_index not in (1, 4)]
    await asyncio.wait_for(coordinator(pool, dataset, groups).run(([s] for s in all_of), len(all_of)), 20)
    await dataset.commit()
    kept = [row["task_id"] for t in iterate_episodes(dataset.run_dir, ["task_id"]) for row in t.to_pylist()]
    assert Counter(kept) == {"t0": 5, "t1": 5, "t2": 5}
    assert groups.cancelled == len(all_of) - 15
    assert pool.expected[-1] == 0
    assert len(stopped) == (0 if capacity == 1 else 6)
    assert not pool.in_flight


async def test_a_failed_episode_is_none_that_its_group_wanted(dataset):
    async def act(unit):
        return [result(s, status="failed") if s.sample_index < 2 else result(s) for s in unit]

    groups = Groups(2)
    await coordinator(Pool(act, 1), dataset, groups).run([s] for s in specs(1, samples=5))
    assert groups.cancelled == 1
    await dataset.commit()
    [table] = iterate_episodes(dataset.run_dir, ["status"])
    assert sorted(table["status"].to_pylist()) == ["failed", "failed", "finished", "finished"]


async def test_a_resumed_group_needs_only_what_it_lacks(dataset):
    async def act(unit):
        return [result(spec) for spec in unit]

    groups = Groups(4, {"r/t0": 3})
    await coordinator(Pool(act, 1), dataset, groups).run([s] for s in specs(1, samples=8)[3:])
    assert len(await read_recorded(dataset)) == 1
    assert groups.cancelled == 4


@pytest.mark.slow
async def test_a_full_disk_ends_the_run_with_a_clear_error_and_a_dataset_that_loads(disk, tmp_path):
    run_dir = disk("1m") / "r"
    letters = random.Random(0)

    async def act(unit):
        one = result(unit[0])
        ballast = "".join(letters.choices("abcdefgh", k=10_000))  # no compression makes it nothing
        record = json.loads(one.record) | {"stop_reason": ballast}
        return [one.model_copy(update={"record": json.dumps(record)})]

    with pytest.raises(RunFolderError, match="No space left on device"):
        async with await Dataset.open(run_dir, "r", segment_records=8, reserve_bytes=200_000) as dataset:
            try:
                await coordinator(Pool(act), dataset).run([spec] for spec in specs(500))
            finally:
                await dataset.commit()
    loaded = load_dataset(
        "parquet",
        data_files=str(run_dir / "episodes" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "hf"),
    )
    assert loaded.num_rows == len(set(loaded["task_id"])) == summarise_run(run_dir).finished > 30
    assert list((run_dir / "journal").iterdir()) == []
    assert not (run_dir / ".reserve").exists()


async def test_records_are_lines_of_json(dataset):
    assert "\n" not in result(specs(1)[0]).record
    json.loads(result(specs(1)[0]).record)
