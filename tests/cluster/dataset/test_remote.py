"""Run folders at a URI: a copy from which any machine can take the run up again."""

import asyncio
import shutil
import threading
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.config import RunConfig
from cluster.dataset import reading_copy
from cluster.dataset.dataset import Dataset, episode_statuses
from cluster.dataset.durable import lock_folder
from cluster.dataset.remote import RemoteFolder, local_folder, open_uri
from cluster.dataset.run_folder import PACKAGES, Target
from cluster.errors import ConfigError, RunError
from cluster.observe.summary import summarise_run
from tests.cluster.synthetic import episode, result


@pytest.fixture(params=["memory", "file"])
def uri(request, tmp_path, monkeypatch):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    if request.param == "file":
        return f"file://{tmp_path}/bucket/run"
    return f"memory://{uuid.uuid4().hex}/run"


async def play(remote, numbers, *, commit=True):
    """What a run does with its folder."""
    async with remote.following(3600), await Dataset.open(remote.local, "run", segment_records=4) as dataset:
        for number in numbers:
            await dataset.append(result(episode(number)))
        if commit:
            await dataset.commit()


def on_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / f"cache-{uuid.uuid4().hex}"))


async def test_the_copy_is_the_run(uri, tmp_path, monkeypatch):
    await play(RemoteFolder(uri), range(10))
    on_another_machine(tmp_path, monkeypatch)
    there = RemoteFolder(uri).fetch()
    assert len(episode_statuses(there)) == summarise_run(there).finished == 10
    file_system, root = fsspec.url_to_fs(uri)
    assert len(file_system.glob(f"{root}/episodes/*.parquet")) == 3


async def test_the_packages_that_a_run_began_with_are_there_for_another_machine(uri, tmp_path, monkeypatch):
    remote = RemoteFolder(uri)
    remote.local.mkdir(parents=True)
    (remote.local / PACKAGES).write_text('{"lines": ["attrs==25.3.0"]}')
    await play(remote, range(2))
    on_another_machine(tmp_path, monkeypatch)
    assert (RemoteFolder(uri).fetch() / PACKAGES).read_text() == '{"lines": ["attrs==25.3.0"]}'


async def test_what_was_only_journalled_is_copied_too(uri, tmp_path, monkeypatch):
    remote = RemoteFolder(uri)
    dataset = await Dataset.open(remote.local, "run")
    for number in range(3):
        await dataset.append(result(episode(number)))
    remote.copy()  # and then the machine is gone
    on_another_machine(tmp_path, monkeypatch)
    assert len(episode_statuses(RemoteFolder(uri).fetch())) == 3
    await dataset.close()


async def test_a_run_goes_on_elsewhere_and_comes_back(uri, tmp_path, monkeypatch):
    home = str(tmp_path / "cache")
    await play(RemoteFolder(uri), range(5))
    on_another_machine(tmp_path, monkeypatch)
    other = RemoteFolder(uri)
    other.fetch()
    await play(other, range(5, 9))
    monkeypatch.setenv("KUMITE_CACHE", home)
    back = RemoteFolder(uri)
    assert len(episode_statuses(back.local)) == 5
    assert len(episode_statuses(back.fetch())) == 9


async def test_a_folder_that_is_ahead_of_its_copy_is_kept(uri):
    remote = RemoteFolder(uri)
    await play(remote, range(5))
    async with await Dataset.open(remote.local, "run") as dataset:
        await dataset.append(result(episode(5)))
    assert len(episode_statuses(RemoteFolder(uri).fetch())) == 6


async def test_a_folder_that_a_run_is_writing_is_left_alone(uri):
    remote = RemoteFolder(uri)
    await play(remote, range(5))
    (remote.local / ".copied").write_text("of another time")
    (remote.local / "note").touch()
    with lock_folder(remote.local):
        assert RemoteFolder(uri).fetch() == remote.local
    assert (remote.local / "note").exists()
    RemoteFolder(uri).fetch()
    assert not (remote.local / "note").exists()


async def test_compacted_segments_go_from_the_copy_after_their_shard_has_come(uri):
    remote = RemoteFolder(uri)
    file_system, root = fsspec.url_to_fs(uri)
    async with await Dataset.open(remote.local, "run") as dataset:
        await dataset.append(result(episode(0)))
        remote.copy()
        assert file_system.glob(f"{root}/journal/*.jsonl")
        await dataset.commit()
        remote.copy()
    assert file_system.glob(f"{root}/journal/*.jsonl") == []
    assert len(file_system.glob(f"{root}/episodes/*.parquet")) == 1


async def test_a_copy_that_fails_is_made_later_and_the_last_one_says_where_the_run_is(
    uri, monkeypatch, caplog
):
    remote = RemoteFolder(uri)
    remote.local.mkdir(parents=True)
    (remote.local / "config.yaml").write_text("a: 1")

    def refuse(path, content):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(remote._fs, "pipe_file", refuse)
    with pytest.raises(RunError, match="Access Denied") as raised:
        async with remote.following(3600):
            while not caplog.records:
                await asyncio.sleep(0.01)
    assert f"the run is whole in {remote.local}" in str(raised.value)
    assert f"--resume {uri}" in str(raised.value)


async def test_a_copy_still_under_way_at_the_end_takes_nothing_away(uri, tmp_path, monkeypatch):
    remote = RemoteFolder(uri)
    remote.local.mkdir(parents=True)
    (remote.local / "config.yaml").write_text("a: 1")
    begun, goes_on = threading.Event(), threading.Event()
    put = remote._fs.pipe_file

    def slow_at_first(path, content):
        if not begun.is_set():
            begun.set()
            assert goes_on.wait(60)
        put(path, content)

    monkeypatch.setattr(remote._fs, "pipe_file", slow_at_first)
    async with remote.following(3600), await Dataset.open(remote.local, "run") as dataset:
        await asyncio.to_thread(begun.wait, 60)
        await dataset.append(result(episode(0)))
        await dataset.commit()
        asyncio.get_running_loop().call_later(0.3, goes_on.set)
    await asyncio.get_running_loop().shutdown_default_executor()  # as at the end of a run
    on_another_machine(tmp_path, monkeypatch)
    assert summarise_run(RemoteFolder(uri).fetch()).finished == 1


async def test_a_segment_compacted_during_a_copy_is_in_it_nonetheless(uri, tmp_path, monkeypatch):
    remote = RemoteFolder(uri)
    loop, put = asyncio.get_running_loop(), remote._fs.pipe_file
    async with await Dataset.open(remote.local, "run") as dataset:
        await dataset.append(result(episode(0)))

        def and_then_commit(path, content):
            put(path, content)
            if path.endswith(".jsonl") and not dataset.manifest.shards:
                asyncio.run_coroutine_threadsafe(dataset.commit(), loop).result(60)

        monkeypatch.setattr(remote._fs, "pipe_file", and_then_commit)
        await asyncio.to_thread(remote.copy)  # and then the machine is gone
        assert dataset.manifest.shards
    on_another_machine(tmp_path, monkeypatch)
    async with await Dataset.open(RemoteFolder(uri).fetch(), "run") as dataset:
        assert len(await dataset.episode_ids()) == 1


async def test_what_a_resumed_run_replaces_goes_from_the_copy_and_what_stays_is_not_sent_again(
    uri, monkeypatch
):
    await play(RemoteFolder(uri), range(10))
    again, sent = RemoteFolder(uri), []
    put = again._fs.pipe_file
    monkeypatch.setattr(again._fs, "pipe_file", lambda path, content: (sent.append(path), put(path, content)))
    async with again.following(3600), await Dataset.open(again.local, "run") as dataset:
        await dataset.forget({episode(0).episode_id})
        named = {
            file for shard in dataset.manifest.shards for file in (shard.episodes_file, shard.steps_file)
        }
    file_system, root = fsspec.url_to_fs(uri)
    there = {path.partition("/run/")[2] for path in file_system.glob(f"{root}/*/*.parquet")}
    assert {path for path in there if not path.startswith("states/")} == named
    parquet = {path.partition("/run/")[2] for path in sent if path.endswith(".parquet")}
    assert {path for path in named if "-1.parquet" in path} <= parquet < there


async def test_a_process_that_ends_while_the_manifest_is_sent_leaves_a_folder_that_is_ahead(uri, monkeypatch):
    remote = RemoteFolder(uri)
    put = remote._fs.pipe_file

    def end_after_the_manifest(path, content):
        put(path, content)
        if path.endswith("manifest.json"):
            raise ConnectionResetError("nobody hears that it has come")

    async with await Dataset.open(remote.local, "run") as dataset:
        await dataset.append(result(episode(0)))
        remote.copy()
        await dataset.commit()
        monkeypatch.setattr(remote._fs, "pipe_file", end_after_the_manifest)
        with pytest.raises(OSError, match="nobody hears"):
            remote.copy()
        await dataset.append(result(episode(1)))
    assert len(episode_statuses(RemoteFolder(uri).fetch())) == 2


async def test_errors_that_are_a_file_systems_own_are_told_like_any(uri, monkeypatch):
    class OfItsOwn(Exception):
        pass

    remote = RemoteFolder(uri)
    remote.local.mkdir(parents=True)
    (remote.local / "config.yaml").write_text("a: 1")

    def refuse(path, content):
        raise OfItsOwn("no such container")

    monkeypatch.setattr(remote._fs, "pipe_file", refuse)
    with pytest.raises(RunError, match="OfItsOwn: no such container"):
        async with remote.following(3600):
            pass


async def test_a_uri_names_a_new_run_or_one_to_resume(uri):
    fields = {"environment": {"id": "e"}, "policy": {"kind": "oracle"}, "output": uri.rpartition("/")[0]}
    config = RunConfig.model_validate(fields)
    made = Target.new(config, None)
    assert made.name.startswith(f"{config.output}/run-") and made.remote is not None
    target = Target.new(config, uri)
    assert (target.run_id, target.name) == ("run", uri)
    with pytest.raises(ConfigError, match="holds no run"):
        Target.resumed(uri, False)
    await play(target.remote, range(2))
    with pytest.raises(ConfigError, match="there is a run in it already"):
        Target.new(config, uri)
    assert Target.resumed(uri, False).run_id == "run"
    shutil.rmtree(target.folder)
    assert len(episode_statuses(Target.resumed(uri, False).folder)) == 2


async def test_a_folder_that_was_moved_away_when_its_replacement_was_killed_is_put_back(uri):
    """Also where the URI has lost the run: what is in the folder is then all that there is of it."""
    remote = RemoteFolder(uri)
    await play(remote, range(3))
    remote.local.rename(remote.local.with_name(f"{remote.local.name}.replaced"))
    file_system, root = open_uri(uri)
    file_system.rm(root, recursive=True)
    fields = {"environment": {"id": "e"}, "policy": {"kind": "oracle"}}
    with pytest.raises(ConfigError, match="a run that began there is in"):
        Target.new(RunConfig.model_validate(fields), uri)
    assert len(episode_statuses(Target.resumed(uri, False).folder)) == 3


async def test_commands_read_a_run_at_its_uri(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/bucket/run"
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    await play(RemoteFolder(uri), range(2))
    on_another_machine(tmp_path, monkeypatch)
    assert "2 finished" in CliRunner().invoke(app, ["show", uri]).output
    written = CliRunner().invoke(app, ["sequences", uri, "--out", str(tmp_path / "s.parquet")])
    assert (written.exit_code, (tmp_path / "s.parquet").exists()) == (0, True), written.output
    missing = CliRunner().invoke(app, ["verify", f"{uri}-not"])
    assert isinstance(missing.exception, ConfigError) and "holds no run" in str(missing.exception)


def test_a_scheme_that_nobody_knows_is_an_error_that_says_what_is_known():
    with pytest.raises(ConfigError, match=r"nope://a/b is no place for runs: .*s3://BUCKET/PATH"):
        RemoteFolder("nope://a/b")


def test_s3_needs_no_package_more():
    file_system, root = open_uri("s3://bucket/runs/one?region=eu-west-1")
    assert isinstance(file_system, ArrowFSWrapper)
    assert Path(root) == Path("bucket/runs/one")


async def test_a_process_that_watches_a_run_holds_a_bounded_number_of_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(reading_copy, "_MAX_HELD", 3)
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "home"))
    uri = f"memory://{uuid.uuid4().hex}/run"
    remote = RemoteFolder(uri)
    taken: list[Path] = []
    async with await Dataset.open(remote.local, "run") as dataset:
        for number in range(9):
            await dataset.append(result(episode(number)))
            remote.copy()
            with monkeypatch.context() as elsewhere:
                elsewhere.setenv("KUMITE_CACHE", str(tmp_path / "elsewhere"))
                taken.append(local_folder(uri))
    held = [path for path in reading_copy._in_use if path in taken]
    assert held == taken[-3:]
    assert [path for path in taken if path.exists()] == taken[-6:], "three that are not held stay, too"
    assert len(episode_statuses(taken[-1])) == 9


async def test_a_copy_that_somebody_removed_is_let_go_of(tmp_path, monkeypatch):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    uri, other = (f"memory://{uuid.uuid4().hex}/run" for _ in range(2))
    for place in (uri, other):
        await play(RemoteFolder(place), range(2))
    on_another_machine(tmp_path, monkeypatch)
    folder = local_folder(uri)
    shutil.rmtree(folder)
    local_folder(other)
    assert folder not in reading_copy._in_use
    assert len(episode_statuses(local_folder(uri))) == 2
