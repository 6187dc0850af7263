"""Who writes a run: its folder, and its place at a URI, are taken before anything else is done."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from cluster.dataset.claims import RunTakenUp
from cluster.dataset.dataset import Dataset, episode_statuses
from cluster.dataset.durable import RunFolderError, RunFolderLocked
from cluster.dataset.episodes import iterate_records
from cluster.dataset.manifest import load_manifest
from cluster.dataset.remote import RemoteFolder, local_folder
from cluster.dataset.run_folder import Target
from cluster.errors import ConfigError, RunError
from cluster.plan.resume import resumable_config
from tests.cluster.synthetic import episode, failed_episode, result
from tests.helpers.bucket_runs import CONFIG, URI, Machines, ids, in_bucket, play
from tests.helpers.failing_storage import Bucket

OLD_RUN = Path(__file__).parent / "run_of_format_1" / "run"


async def test_a_resumption_that_made_no_shard_is_seen_where_the_run_was_before(machines: Machines) -> None:
    await play(Target.new(CONFIG, URI), range(5))
    machines.use("there")
    resumed = Target.resumed(URI, False)
    with resumed.held(CONFIG):
        dataset = await resumed.open_dataset()
        for number in range(5, 12):
            await dataset.append(result(episode(number)))
        assert resumed.remote is not None
        resumed.remote.copy()  # the journal; and then the machine is gone
        journal = Bucket().glob("bucket/run/journal/*")
        assert len(journal) == 1
        machines.use("here")
        again = Target.resumed(URI, False)
        assert set(episode_statuses(again.folder)) == ids(range(12))
        await play(again, range(12, 13))
        assert in_bucket() == ids(range(13))
        await dataset.close()


async def test_every_take_up_is_in_the_manifest_before_anything_else(machines: Machines) -> None:
    target = Target.new(CONFIG, URI)
    with target.held(CONFIG):
        manifest = json.loads(Bucket().cat_file("bucket/run/manifest.json"))
        assert (manifest["take_ups"], manifest["writers"]) == (1, [manifest["writer"]])
        assert load_manifest(target.folder).writer == manifest["writer"]
        await (await target.open_dataset()).close()
    machines.use("there")
    with Target.resumed(URI, False).held(CONFIG):
        again = json.loads(Bucket().cat_file("bucket/run/manifest.json"))
    assert again["take_ups"] == 2
    assert again["writers"] == [manifest["writer"], again["writer"]]


async def test_of_two_writers_the_earlier_one_stops_and_harms_nothing(machines: Machines) -> None:
    first = Target.new(CONFIG, URI)
    with first.held(CONFIG):
        dataset = await first.open_dataset()
        for number in range(4):
            await dataset.append(result(episode(number)))
        assert first.remote is not None
        first.remote.copy()
        machines.use("there")
        await play(Target.resumed(URI, False), range(4, 8))
        machines.use("here")
        for number in range(4, 10):  # of which the other one has played some as well
            await dataset.append(result(episode(number, worker_id="here")))
        await dataset.commit()
        before = dict(Bucket.store)
        with pytest.raises(RunTakenUp, match=r"taken up by another process.*--resume bucket://bucket/run"):
            async with first.remote.following(0.01):
                while dataset._refusal is None:
                    await asyncio.sleep(0.01)
        with pytest.raises(RunFolderError, match="taken up by another process"):
            await dataset.append(result(episode(10)))
        assert before == Bucket.store
        assert set(episode_statuses(first.folder)) == ids(range(10))
        await dataset.close()
    assert in_bucket() == ids(range(8))
    await play(Target.resumed(URI, False), range(10, 11))
    assert in_bucket() == ids(range(11))


async def test_new_runs_at_one_uri_are_told_apart(machines: Machines) -> None:
    one = Target.new(CONFIG, URI)
    machines.use("there")
    other = Target.new(CONFIG, URI)
    with one.held(CONFIG):
        with pytest.raises((ConfigError, RunTakenUp), match=r"begun|taken up"), other.held(CONFIG):
            pass
        assert not other.folder.exists()
        await (await one.open_dataset()).close()
    assert load_manifest(local_folder(URI)).take_ups == 1


@pytest.mark.parametrize("copied", [None, "", "of another time"])
async def test_a_folder_that_holds_more_than_the_bucket_is_kept(
    machines: Machines, copied: str | None
) -> None:
    await play(Target.new(CONFIG, URI), range(5))
    again = Target.resumed(URI, False)
    with again.held(CONFIG):
        async with await again.open_dataset() as dataset:
            for number in range(5, 50):
                await dataset.append(result(episode(number)))
    mark = again.folder / ".copied"
    mark.unlink() if copied is None else mark.write_text(copied)
    for _ in range(2):
        assert set(episode_statuses(RemoteFolder(URI).fetch())) == ids(range(50))
    await play(Target.resumed(URI, False), range(50, 51))
    assert in_bucket() == ids(range(51))


async def test_episodes_of_both_sides_come_together(machines: Machines) -> None:
    await play(Target.new(CONFIG, URI), range(3))
    await play(Target.resumed(URI, False), range(3, 6), copies=False)
    machines.use("there")
    await play(Target.resumed(URI, False), range(5, 9))
    machines.use("here")
    await play(Target.resumed(URI, False), range(9, 10))
    assert in_bucket() == ids(range(10))


async def test_another_runs_folder_is_set_aside_and_named(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    await play(Target.new(CONFIG, URI), range(3))
    folder = RemoteFolder(URI).local
    Bucket.clear()
    machines.use("there")
    await play(Target.new(CONFIG, URI), range(2))
    machines.use("here")
    assert set(episode_statuses(Target.resumed(URI, False).folder)) == ids(range(2))
    aside = folder.with_name(f"{folder.name}.aside-1")
    assert set(episode_statuses(aside)) == ids(range(3))
    assert str(aside) in caplog.text


async def test_a_run_that_never_reached_its_bucket_goes_on_where_it_is(machines: Machines) -> None:
    target = Target.new(CONFIG, URI)
    await play(target, range(2))
    Bucket.clear()
    assert Target.resumed(URI, False).folder == target.folder
    await play(Target.resumed(URI, False), range(2, 3))
    assert in_bucket() == ids(range(3))


@pytest.mark.parametrize("place", ["folder", "uri"])
async def test_a_new_runs_folder_is_taken_once(machines: Machines, tmp_path: Path, place: str) -> None:
    out = str(tmp_path / "run") if place == "folder" else URI
    first, second, third = (Target.new(CONFIG, out) for _ in range(3))
    with first.held(CONFIG):
        with pytest.raises(RunFolderLocked, match="being written by another process"), second.held(CONFIG):
            pass
        dataset = await first.open_dataset()
        await dataset.append(result(episode(0)))
        await dataset.close()
    assert set(episode_statuses(first.folder)) == ids(range(1))
    with pytest.raises(ConfigError, match="there is a run in it already"):
        Target.new(CONFIG, out)
    before = load_manifest(first.folder)
    with pytest.raises(ConfigError, match="another run has just begun"), third.held(CONFIG):
        pass
    assert load_manifest(first.folder) == before


def test_a_new_run_that_is_not_brought_up_leaves_nothing(machines: Machines, tmp_path: Path) -> None:
    for out in (str(tmp_path / "run"), URI):
        target = Target.new(CONFIG, out)
        with pytest.raises(RunError, match="no workers"), target.held(CONFIG):
            assert (target.folder / "config.yaml").exists()
            raise RunError("no workers")
        assert not target.folder.exists()
        assert Target.new(CONFIG, out)
    assert not Bucket.store


def test_an_empty_folder_that_was_there_before_stays_when_a_new_run_is_not_brought_up(tmp_path: Path) -> None:
    for name in ("made by the user", "made by the run"):
        folder = tmp_path / name
        if name == "made by the user":
            folder.mkdir()
        target = Target.new(CONFIG, str(folder))
        with pytest.raises(RunError, match="no workers"), target.held(CONFIG):
            raise RunError("no workers")
        assert folder.exists() == (name == "made by the user")
    assert list((tmp_path / "made by the user").iterdir()) == []


@pytest.mark.slow
async def test_a_run_that_was_killed_before_its_first_copy_goes_on_elsewhere(
    machines: Machines, tmp_path: Path
) -> None:
    """Wherever in its take-up the process is killed: the URI holds no run, or one with its config."""
    environment = tmp_path / "words.py"
    environment.write_text("# an environment")
    config = CONFIG.model_copy(
        update={"environment": CONFIG.environment.model_copy(update={"id": str(environment)})}
    )
    moments: list[dict[str, object]] = []
    Bucket.before = lambda what, path: moments.append(dict(Bucket.store))
    with Target.new(config, URI).held(config):
        Bucket.before = None
    before_a_copy = 0
    for number, store in enumerate(moments):
        Bucket.store.clear()
        Bucket.store.update(store)
        machines.use(f"there-{number}")
        if not RemoteFolder(URI).holds_run():
            continue
        resumed = Target.resumed(URI, False)
        assert resumable_config(resumed.folder, None).environment.id == config.environment.id
        await play(resumed, range(1))
        assert in_bucket() == ids(range(1))
        assert (local_folder(URI) / "environment.py").read_text() == "# an environment"
        before_a_copy += "/bucket/run/config.yaml" not in store
    assert before_a_copy


def test_a_folder_in_which_a_run_was_killed_before_it_began_can_be_taken(tmp_path: Path) -> None:
    target = Target.new(CONFIG, str(tmp_path / "run"))
    with target.held(CONFIG):
        shutil.copytree(target.folder, tmp_path / "killed")
    for name in ("manifest.json", ".lock"):
        (tmp_path / "killed" / name).unlink()
    with pytest.raises(ConfigError, match="not empty"):
        Target.new(CONFIG, str(tmp_path / "killed"))  # a config.yaml may be the user's own
    (tmp_path / "killed" / ".making").touch()
    with Target.new(CONFIG, str(tmp_path / "killed")).held(CONFIG):
        pass


async def test_a_run_of_the_version_before_goes_on(tmp_path: Path) -> None:
    run = shutil.copytree(OLD_RUN, tmp_path / "run")
    before = episode_statuses(run)
    assert len(before) == 5
    target = Target.resumed(str(run), False)
    await play(target, range(10, 12))
    assert set(episode_statuses(run)) == before.keys() | ids(range(10, 12))
    assert load_manifest(run).take_ups == 1


async def test_a_run_of_the_version_before_goes_on_from_its_bucket(machines: Machines) -> None:
    bucket = Bucket()
    for path in OLD_RUN.rglob("*"):
        if path.is_file():
            bucket.pipe_file(f"bucket/run/{path.relative_to(OLD_RUN).as_posix()}", path.read_bytes())
    before = episode_statuses(OLD_RUN)
    assert in_bucket() == before.keys()
    await play(Target.resumed(URI, False), range(10, 12))
    machines.use("there")
    assert in_bucket() == before.keys() | ids(range(10, 12))
    assert bucket.glob("bucket/run/journal/*") == []


async def test_a_file_that_changes_while_the_clock_stands_is_copied(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await play(Target.new(CONFIG, URI), range(1))
    target = Target.resumed(URI, False)
    with target.held(CONFIG):
        assert target.remote is not None
        summary = target.folder / "summary.json"
        summary.write_text("1")
        status = summary.stat()
        target.remote.copy()
        summary.write_text("2")
        os.utime(summary, ns=(status.st_atime_ns, status.st_mtime_ns))
        target.remote.copy()
        assert Bucket().cat_file("bucket/run/summary.json") == b"2"
        await (await target.open_dataset()).close()


async def test_reading_a_run_at_a_uri_fetches_what_is_new_and_writes_into_no_run(machines: Machines) -> None:
    await play(Target.new(CONFIG, URI), range(5))
    machines.use("a third")
    folder = local_folder(URI)
    assert not RemoteFolder(URI).local.exists()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    Bucket.gets = 0
    assert local_folder(URI) == folder
    assert Bucket.gets == 0
    machines.use("here")
    await play(Target.resumed(URI, False), range(5, 7))
    machines.use("a third")
    assert in_bucket() == ids(range(7))
    new = {path.rpartition("/")[2] for path in Bucket().find("bucket/run")}
    assert 0 < Bucket.gets < len(new)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")}.keys() == before.keys()


async def test_reading_leaves_a_run_at_work_here_alone(machines: Machines) -> None:
    target = Target.new(CONFIG, URI)
    with target.held(CONFIG):
        dataset = await target.open_dataset()
        await dataset.append(result(episode(0)))
        (target.folder / ".copied").write_text("of another time")
        local_folder(URI)
        with pytest.raises(RunFolderLocked):
            await Dataset.open(target.folder, "run")
        assert (target.folder / ".lock").exists()
        await dataset.append(result(episode(1)))
        await dataset.close()


async def test_a_reader_goes_on_while_failed_episodes_are_taken_out(tmp_path: Path) -> None:
    async with await Dataset.open(tmp_path, "run", segment_records=2) as dataset:
        for number in range(6):
            record = failed_episode(number) if number % 2 else episode(number)
            await dataset.append(result(record))
        await dataset.commit()
        reader = iterate_records(tmp_path)
        found = [next(reader).episode_id]
        await dataset.forget({f"{number:016x}" for number in (1, 3, 5)})
        found += [record.episode_id for record in reader]
    assert len(found) == len(set(found))
    assert ids(range(0, 6, 2)) <= set(found)


@pytest.mark.slow
async def test_what_a_writer_adds_after_it_was_replaced_is_not_read_by_a_later_take_up(
    machines: Machines,
) -> None:
    """The next writers have played its episodes again; one that is about to look has to leave them out."""
    await play(Target.new(CONFIG, URI), range(1))
    machines.use("there")
    late = Target.resumed(URI, False)
    with late.held(CONFIG):
        async with await late.open_dataset() as dataset:
            await dataset.append(result(episode(1)))
            machines.use("here")
            other = Target.resumed(URI, False)

            def take_up(what: str, path: str) -> None:
                Bucket.before = None
                with other.held(CONFIG):
                    pass

            Bucket.before = take_up
            assert late.remote is not None
            with pytest.raises(RunTakenUp):
                late.remote.copy()
    await play(Target.resumed(URI, False), range(1, 3))
    machines.use("there")
    again = Target.resumed(URI, False)
    with again.held(CONFIG):
        async with await again.open_dataset():
            found = [record.episode_id for record in iterate_records(local_folder(URI))]
    assert sorted(found) == sorted(ids(range(3)))
