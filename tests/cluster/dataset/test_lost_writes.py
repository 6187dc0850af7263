"""A bucket or a disk that loses what was written last costs no episode, and no reader finds half a run."""

import os
import zlib
from typing import Any

import fsspec
import pytest

from cluster.dataset.dataset import episode_statuses
from cluster.dataset.remote import RemoteFolder
from cluster.dataset.run_folder import Target
from cluster.errors import ConfigError
from tests.cluster.synthetic import episode, failed_episode, result
from tests.helpers.bucket_runs import CONFIG, URI, Machines, ids, in_bucket, play
from tests.helpers.failing_storage import Bucket


async def test_a_copy_into_a_bucket_that_has_lost_all_names_no_file_before_it_is_there(
    machines: Machines,
) -> None:
    """Its writer's claim is gone as well, and is made anew; a reader of the copy so far finds a whole run."""
    target = Target.new(CONFIG, URI)
    assert target.remote is not None
    looked: list[int] = []
    with target.held(CONFIG):
        async with await target.open_dataset() as dataset:
            for number in range(3):
                await dataset.append(result(episode(number)))
            await dataset.commit()
            target.remote.copy()
            Bucket.store.clear()

            def look(what: str, path: str) -> None:
                if what != "get" and target.remote.holds_run():
                    machines.use(f"reader-{len(looked)}")
                    looked.append(len(in_bucket()))
                    machines.use("here")

            Bucket.before = look
            target.remote.copy(check=True)
            Bucket.before = None
    assert looked[0] == 0 and in_bucket() == ids(range(3))


@pytest.mark.slow
@pytest.mark.parametrize("changes", range(1, 6))
async def test_a_bucket_that_has_lost_all_can_be_written_by_another_while_the_run_comes_back(
    machines: Machines, changes: int
) -> None:
    """The machine that has the run is cut off when it has put its claim there, or a little later."""
    target = Target.new(CONFIG, URI)
    with target.held(CONFIG):
        async with await target.open_dataset() as dataset:
            await dataset.append(result(episode(0), {"base": "{}"}))
            await dataset.commit()
    left = [changes]

    def cut_off(what: str, path: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionResetError("the bucket does not answer")

    Bucket.store.clear()
    Bucket.before = cut_off
    again = Target.resumed(URI, False)
    with pytest.raises(ConfigError, match="does not answer"), again.held(CONFIG):
        pass
    Bucket.before = None
    machines.use("there")
    await play(Target.resumed(URI, False), range(1, 2))
    machines.use("here")
    await play(Target.resumed(URI, False), range(2, 3))
    assert in_bucket() == ids(range(3))


async def test_a_copy_finds_what_the_bucket_has_lost_since_the_one_before(machines: Machines) -> None:
    target = Target.new(CONFIG, URI)
    assert target.remote is not None
    with target.held(CONFIG):
        async with await target.open_dataset() as dataset:
            await dataset.append(result(episode(0)))
            target.remote.copy()
            journal = [path for path in Bucket.store if "/journal/" in path]
            for path in journal:
                del Bucket.store[path]
            target.remote.copy()
            assert set(journal) <= Bucket.store.keys()


async def test_a_folder_is_set_aside_on_disk_before_it_is_replaced(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power after that leaves neither."""
    await play(Target.new(CONFIG, URI), range(2), commits=False)
    local = RemoteFolder(URI).local
    Bucket.store.clear()
    machines.use("there")
    await play(Target.new(CONFIG, URI), range(2, 3))
    machines.use("here")
    synced: set[int] = set()
    fsync = os.fsync

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    await play(Target.resumed(URI, False), range(3, 4))
    (aside,) = local.parent.glob(f"{local.name}.aside-*")
    assert set(episode_statuses(aside)) == ids(range(2))
    assert {path.stat().st_ino for path in aside.rglob("*")} <= synced


async def test_a_folder_that_is_fetched_is_on_disk_before_it_takes_its_place(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a loss of power leaves an empty manifest, with which no run is taken up, in the bucket or here."""
    await play(Target.new(CONFIG, URI), range(2))
    body = episode(2).model_dump_json().encode()
    late: Any
    with fsspec.open(f"{URI}/journal/000009-wdeadbeef.jsonl", "wb") as late:  # of a writer that was replaced
        late.write(b"%08x %b\n" % (zlib.crc32(body), body))
    machines.use("there")
    synced: set[tuple[int, int]] = set()
    fsync = os.fsync

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced.add((status.st_ino, status.st_mtime_ns))

    monkeypatch.setattr(os, "fsync", noting_fsync)
    local = RemoteFolder(URI).fetch()
    assert set(episode_statuses(local)) == ids(range(3))
    found = {path: path.stat() for path in local.rglob("*") if path.name != ".lock"}
    assert [path for path, status in found.items() if (status.st_ino, status.st_mtime_ns) not in synced] == []


async def test_a_shard_that_was_written_anew_hides_none_of_its_episodes_while_it_is_copied(
    machines: Machines,
) -> None:
    """A resumption has taken an episode out to play it again, and the bucket has lost what it put there."""
    target = Target.new(CONFIG, URI)
    assert target.remote is not None
    with target.held(CONFIG):
        async with await target.open_dataset() as dataset:
            for number in range(3):
                await dataset.append(result((failed_episode if number == 1 else episode)(number)))
            await dataset.commit()
            target.remote.copy()
    assert in_bucket() == ids(range(3))
    ended = dict(Bucket.store)
    kept, looked = ids(range(3)) - ids(range(1, 2)), 0
    target = Target.resumed(URI, True)
    assert target.remote is not None
    with target.held(CONFIG):
        async with await target.open_dataset() as dataset:
            await dataset.forget(ids(range(1, 2)))
            Bucket.store.clear()
            Bucket.store.update(ended)

            def look(what: str, path: str) -> None:
                nonlocal looked
                if what != "get":
                    looked += 1
                    machines.use(f"reader-{looked}")
                    assert kept <= in_bucket(), f"before the {what} of {path}"
                    machines.use("here")

            Bucket.before = look
            target.remote.copy()
            Bucket.before = None
    assert looked > 4 and in_bucket() == kept
