import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.dataset import durable, shard_store
from cluster.dataset.dataset import Dataset, episode_statuses
from cluster.dataset.durable import RunFolderError, RunFolderLocked
from cluster.dataset.episodes import iterate_records
from cluster.dataset.journal import JournalCorrupt, list_segments
from cluster.dataset.manifest import ManifestError, load_manifest
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import RunRecord, begin_session
from cluster.dataset.schemas import EPISODES, STEPS
from cluster.dataset.shards import CompactionError
from cluster.observe.summary import summarise_run, write_summary
from tests.cluster.dataset.conftest import read_back
from tests.cluster.synthetic import (
    bare_step,
    episode,
    failed_episode,
    full_step,
    result,
    write_segment,
)
from tests.helpers.bucket_runs import CONFIG
from workers.records import EpisodeRecord, StepRecord

WRITER = "tests.cluster.crashing_writer"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.fixture
def hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(pattern: Path, cache: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(pattern), split="train", cache_dir=str(cache))


@pytest.mark.usefixtures("hub_offline")
async def test_datasets_loads_every_table_with_no_code_of_ours(tmp_path: Path):
    run_dir, cache = tmp_path / "run", tmp_path / "cache"
    nulls = [failed_episode(0), episode(1, steps=[bare_step(0, True)], tool_schemas="[]", messages=[])]
    full = [episode(2, attack="direct", injection_task="i1"), episode(3, steps=[full_step(0, True)])]
    async with await Dataset.open(run_dir, "run-1") as dataset:
        for shard in ([nulls[0]], nulls[1:], full):
            for record in shard:
                await dataset.append(result(record, {"base": '{"paid": null}'}))
            await dataset.commit()
    assert len(load_manifest(run_dir).shards) == 3

    loaded = load(run_dir / "episodes" / "*.parquet", cache)
    assert loaded.column_names == EPISODES.names
    assert [EpisodeRecord(**row, steps=[]) for row in loaded] == [
        record.model_copy(update={"steps": []}) for record in (*nulls, *full)
    ]
    steps = load(run_dir / "steps" / "*.parquet", cache)
    assert steps.column_names == STEPS.names
    assert [StepRecord(**{name: row[name] for name in StepRecord.model_fields}) for row in steps] == [
        step for record in (*nulls, *full) for step in record.steps
    ]
    assert list(load(run_dir / "states" / "*.parquet", cache)) == [
        {"state_id": "base", "state": '{"paid": null}'}
    ]


async def test_appended_episodes_are_counted_before_and_after_commit(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1", segment_records=2) as dataset:
        for number in range(4):
            await dataset.append(result(episode(number)))
        await dataset.append(result(failed_episode(4)))
        expected = {f"{number:016x}": "finished" for number in range(4)} | {f"{4:016x}": "failed"}
        assert await dataset.statuses() == expected
        manifest = await dataset.commit(wall_seconds=2.5)
        assert await dataset.statuses() == expected == episode_statuses(tmp_path)
    assert list_segments(tmp_path / "journal") == []
    assert [shard.episodes for shard in manifest.shards] == [2, 2, 1]
    assert sum(shard.steps for shard in manifest.shards) == 8
    assert load_manifest(tmp_path) == manifest
    assert manifest.wall_seconds == 2.5


async def test_full_segments_are_compacted_while_appends_go_on(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1", segment_records=2) as dataset:
        await asyncio.gather(*(dataset.append(result(episode(number))) for number in range(9)))
    assert len(load_manifest(tmp_path).shards) == 4
    assert [segment.name for segment in list_segments(tmp_path / "journal")] == ["000005.jsonl"]


async def test_commit_of_nothing_makes_no_shard(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        assert (await dataset.commit()).shards == []
        await dataset.set_planned(7)
    assert load_manifest(tmp_path).planned == 7


async def test_reopened_run_goes_on_where_it_was(tmp_path: Path):
    for number in range(3):
        async with await Dataset.open(tmp_path, "run-1") as dataset:
            assert len(await dataset.episode_ids()) == number
            await dataset.append(result(episode(number), {"base": "{}"}))
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        assert len(await dataset.episode_ids()) == 3
    assert len({shard.segment for shard in load_manifest(tmp_path).shards}) == 3
    assert read_back(tmp_path) == [episode(number) for number in range(3)]


async def test_state_is_written_once_and_before_its_episode(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        await asyncio.gather(
            *(dataset.append(result(episode(number), {"base": '{"paid": 0}'})) for number in range(5))
        )
        await dataset.add_states({"base": "something else", "other": "[]"})
        states = [pq.read_table(file).to_pylist() for file in sorted((tmp_path / "states").iterdir())]
        assert states == [
            [{"state_id": "base", "state": '{"paid": 0}'}],
            [{"state_id": "other", "state": "[]"}],
        ]
        assert dataset.manifest.states == ["states/base.parquet", "states/other.parquet"]
        with pytest.raises(ValueError, match=r"\.\./x"):
            await dataset.add_states({"../x": "{}"})


async def test_folder_of_another_run_is_refused(tmp_path: Path):
    await (await Dataset.open(tmp_path, "run-1")).close()
    with pytest.raises(ManifestError, match="holds run 'run-1', not 'run-2'"):
        await Dataset.open(tmp_path, "run-2")


async def test_second_writer_is_refused_until_the_first_is_done(tmp_path: Path):
    first = await Dataset.open(tmp_path, "run-1")
    with pytest.raises(RunFolderLocked, match="being written by another process"):
        await Dataset.open(tmp_path, "run-1")
    await first.close()
    await (await Dataset.open(tmp_path, "run-1")).close()


async def test_damaged_journal_is_refused_and_let_go_of(tmp_path: Path):
    segment = write_segment(tmp_path / "journal" / "000001.jsonl", [episode(0), episode(1)])
    whole = segment.read_bytes()
    segment.write_bytes(whole.replace(b"banking", b"bonking", 1))
    for _ in range(2):
        with pytest.raises(JournalCorrupt, match="line 1"):
            await Dataset.open(tmp_path, "run-1")
    segment.write_bytes(whole)
    async with await Dataset.open(tmp_path, "run-1"):
        assert len(read_back(tmp_path)) == 2


async def test_segment_that_cannot_be_compacted_costs_only_the_commit(tmp_path: Path):
    odd = episode(0)
    odd.sample_index = 2**70
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        for record in (odd, episode(1)):
            await dataset.append(result(record))
        with pytest.raises(CompactionError, match=r"000001\.jsonl: line 1 does not fit"):
            await dataset.commit()
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        await dataset.append(result(episode(2)))
        with pytest.raises(CompactionError, match=r"000001\.jsonl: line 1 does not fit"):
            await dataset.commit()
        assert len(await dataset.episode_ids()) == 3
    assert [segment.name for segment in list_segments(tmp_path / "journal")] == ["000001.jsonl"]
    assert read_back(tmp_path) == [episode(1), episode(2)]


async def test_shard_that_cannot_be_written_is_made_when_it_can(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        (tmp_path / "steps").rmdir()
        await dataset.append(result(episode(0)))
        with pytest.raises(RunFolderError, match=r"000001\.jsonl cannot be made into a shard.*No such file"):
            await dataset.commit()
        assert len(await dataset.episode_ids()) == 1
        (tmp_path / "steps").mkdir()
        await dataset.commit()
    assert read_back(tmp_path) == [episode(0)]


async def test_shard_that_fails_for_room_while_commit_waits_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun, goes_on = threading.Event(), threading.Event()
    real = shard_store.compact

    def full_at_first(segment: Path, run_dir: Path) -> Any:
        if not begun.is_set():
            begun.set()
            assert goes_on.wait(60)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(segment, run_dir)

    monkeypatch.setattr(shard_store, "compact", full_at_first)
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        (tmp_path / ".reserve").unlink()
        await dataset.append(result(episode(0)))
        assert await asyncio.to_thread(begun.wait, 60)
        commit = asyncio.create_task(dataset.commit())
        while not dataset._thread._work_queue.qsize():
            await asyncio.sleep(0.01)
        goes_on.set()
        assert len((await commit).shards) == 1


async def test_a_disk_that_is_full_where_a_run_is_taken_up_or_ends_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        await dataset.append(result(episode(0)))

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as disk:
        disk.setattr(durable, "fsync_file", full)
        said = "cannot write in .*: No space left on device"
        with pytest.raises(RunFolderError, match=said):
            await Dataset.open(tmp_path, "run-1")
        with pytest.raises(RunFolderError, match=said):
            begin_session(tmp_path, RunRecord(model="m"), 0)
        with pytest.raises(RunFolderError, match=said):
            write_summary(tmp_path, summarise_run(tmp_path))
    with monkeypatch.context() as disk:
        disk.setattr(durable, "fsync_folder", full)
        with (
            pytest.raises(RunFolderError, match=said),
            Target.new(CONFIG, str(tmp_path / "new")).held(CONFIG),
        ):
            pass
    assert not (tmp_path / "new").exists()
    async with await Dataset.open(tmp_path, "run-1") as dataset:  # nobody holds the folder
        assert await dataset.episode_ids() == {episode(0).episode_id}


async def test_episodes_that_are_in_no_shard_yet_are_not_forgotten_unseen(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        (tmp_path / "steps").rmdir()
        for number in range(2):
            await dataset.append(result(episode(number)))
        with pytest.raises(RunFolderError, match="cannot be made into a shard"):
            await dataset.commit()
        with pytest.raises(RunFolderError, match=r"000002\.jsonl cannot be made into a shard"):
            await dataset.forget({episode(1).episode_id})
        assert len(await dataset.episode_ids()) == 2


async def test_time_that_a_killed_run_took_is_known(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        await dataset.append(result(episode(0)))
    taken = load_manifest(tmp_path).wall_seconds
    assert taken
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        await dataset.append(result(episode(1)))
    more = load_manifest(tmp_path).wall_seconds
    assert more and more > taken


async def test_records_are_read_from_the_shard_that_a_segment_becomes_meanwhile(tmp_path: Path):
    async with await Dataset.open(tmp_path, "run-1") as dataset:
        await dataset.append(result(episode(0)))
        await dataset.commit()
        await dataset.append(result(episode(1)))
        records = iterate_records(tmp_path)
        assert next(records) == episode(0)
        await dataset.commit()
        assert list(records) == [episode(1)]


async def test_event_loop_goes_on_during_a_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop = asyncio.get_running_loop()
    real = shard_store.compact

    async def tick() -> None:
        await asyncio.sleep(0)

    def observed(segment: Path, run_dir: Path) -> Any:
        asyncio.run_coroutine_threadsafe(tick(), loop).result(timeout=90)
        return real(segment, run_dir)

    monkeypatch.setattr(shard_store, "compact", observed)
    async with await Dataset.open(tmp_path, "run-1", segment_records=1) as dataset:
        await dataset.append(result(episode(0)))
        assert len((await dataset.commit()).shards) == 1


async def reopened(run_dir: Path) -> set[str]:
    async with await Dataset.open(run_dir, "run-1") as dataset:
        return await dataset.episode_ids()


def check_after_crash(run_dir: Path, acknowledged: set[str]) -> None:
    """Open what a killed writer left; every acknowledged episode must be there once, and nothing half."""
    before = set(episode_statuses(run_dir)) if (run_dir / "manifest.json").exists() else set[str]()
    assert asyncio.run(reopened(run_dir)) == before
    ids = [record.episode_id for record in read_back(run_dir)]
    assert len(ids) == len(before)
    assert acknowledged <= set(ids) == before
    assert list_segments(run_dir / "journal") == list(run_dir.rglob(".*.tmp")) == []
    manifest = load_manifest(run_dir)
    files = {file.relative_to(run_dir).as_posix() for file in run_dir.glob("*/*.parquet")}
    shards = {file for shard in manifest.shards for file in (shard.episodes_file, shard.steps_file)}
    assert files == shards | set(manifest.states)
    assert manifest.states or not acknowledged


@pytest.mark.slow
def test_sigkill_before_any_durable_step_loses_nothing(tmp_path: Path):
    command = [sys.executable, "-m", WRITER, "steps", tmp_path]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=600)
    runs = sorted(tmp_path.glob("*.acknowledged"), key=lambda path: int(path.stem))
    assert len(runs) > 30
    for run in runs:
        check_after_crash(run.with_suffix(""), {f"{int(number):016x}" for number in run.read_text().split()})
    assert len(runs[-1].read_text().split()) == 3


@pytest.mark.faults
def test_sigkill_at_random_moments_loses_no_acknowledged_episode(tmp_path: Path):
    acknowledged: set[str] = set()
    following = 0
    for patience in (1, 3, 20, 60, 150):
        writer = subprocess.Popen(
            [sys.executable, "-m", WRITER, "appends", tmp_path, str(following)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        try:
            numbers = [int(writer.stdout.readline()) for _ in range(patience)]
        finally:
            os.kill(writer.pid, signal.SIGKILL)
        numbers += [int(line) for line in writer.communicate(timeout=600)[0].splitlines() if line.isdecimal()]
        acknowledged |= {f"{number:016x}" for number in numbers}
        # A new writer never appends what the one before may have appended.
        following = max(numbers) + 100
        check_after_crash(tmp_path, acknowledged)
    assert len(acknowledged) > 230
