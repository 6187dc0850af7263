"""The local folder of a run at a URI: how it is brought up to date, and loses nothing by it."""

import fcntl
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cluster.dataset.claims import Claims
from cluster.dataset.durable import RunFolderError, fsync_file, fsync_folder, lock_folder
from cluster.dataset.journal import segment_writer
from cluster.dataset.manifest import (
    Manifest,
    load_manifest,
    manifest_path,
    parse_manifest,
    write_manifest,
)
from cluster.dataset.merging import (
    add_episodes,
    count_unseen,
    find_unseen,
    has_steps_of_run_only,
    read_stranger,
)
from cluster.dataset.reading_copy import MUTABLE, ReadingCopies, wanted_files
from cluster.dataset.take_up import COPIED

_log = logging.getLogger(__name__)
OWN = "own"
"""What stands in `COPIED` beside the digests: the folder holds all that is at the URI with one of them."""


class FollowedFolder:
    """The local folder of a run at a URI.

    Args:
        path: The folder.
        uri: What the user calls the place.
        claims: The run's manifests there.
        reading: Copies of what is there.
    """

    def __init__(self, path: Path, uri: str, claims: Claims, reading: ReadingCopies) -> None:
        self.path = path
        self._uri = uri
        self._claims = claims
        self._reading = reading

    def has_run(self) -> bool:
        """Whether there is a run in it."""
        return manifest_path(self.path).exists()

    def noted(self) -> list[str]:
        """What `note` has noted: digests of manifests at the URI, and perhaps `OWN`."""
        try:
            return (self.path / COPIED).read_text().split()
        except FileNotFoundError:
            return []

    def note(self, *words: str) -> None:
        """Notes, as a whole, what is known of the copy at the URI."""
        # Not as `replacing` names it: a dataset that is opened meanwhile takes that for a killed process's.
        temporary = self.path / f"{COPIED}-new"
        temporary.write_text("\n".join(dict.fromkeys(words)))
        fsync_file(temporary)
        temporary.replace(self.path / COPIED)
        fsync_folder(self.path)

    def is_up_to_date(self) -> bool:
        """Whether all that is at the URI is in the local folder, since this machine was the last to write."""
        there = self._claims.last()
        words = self.noted()
        if there is None or not self.has_run() or digest(there) not in words:
            return False
        return OWN in words or parse_manifest(there, self._uri).writer is None

    @contextmanager
    def being_replaced(self) -> Generator[None]:
        """Lets one process at a time replace the local folder, and mends what a killed one left."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._beside("fetching").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._put_back()
            shutil.rmtree(self._beside("replaced"), ignore_errors=True)
            yield

    def mend(self) -> None:
        """Puts the folder back that a process had moved away to replace it, and was killed before it had."""
        if not self._beside("replaced").exists() or self.has_run():
            return
        with self._beside("fetching").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # it is being replaced now
            self._put_back()

    def _put_back(self) -> None:
        replaced = self._beside("replaced")
        if replaced.exists() and not self.has_run():
            shutil.rmtree(self.path, ignore_errors=True)
            replaced.rename(self.path)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def synchronise(self, lock: IO[bytes], claimed: str | None) -> IO[bytes]:
        """Brings the local folder up to date with the remote one, and loses nothing that is in it.

        Args:
            lock: The local folder's lock.
            claimed: The id with which this process has just taken the run up there, if it has.

        Returns:
            The local folder's lock: of another folder, if it was replaced.
        """
        if claimed is None and self.is_up_to_date():
            return lock
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".fetched-") as scratch:
            fetched = Path(scratch) / "run"
            self._fetch_into(fetched)
            if self.has_run() and self._keep_local(fetched, claimed):
                self.note(digest(self._claims.last() or b""), OWN)
                return lock
            new_lock = lock_folder(fetched)
            try:
                self.path.rename(self._beside("replaced"))
                fetched.rename(self.path)
            except BaseException:
                new_lock.close()
                raise
        lock.close()
        fsync_folder(self.path.parent)
        shutil.rmtree(self._beside("replaced"), ignore_errors=True)
        return new_lock

    def _fetch_into(self, folder: Path) -> None:
        """Makes a run folder of what is there, which nobody else uses."""
        copy = self._reading.take()
        for source in sorted(path for path in copy.rglob("*") if path.is_file()):
            name = source.relative_to(copy).as_posix()
            if name.startswith("."):
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            fsync_file(target)
        for name, content in self._claims.beginning(load_manifest(copy)).items():
            if not (folder / name).exists():  # its first writer was killed before it had copied it
                (folder / name).write_bytes(content)
                fsync_file(folder / name)
        (folder / COPIED).write_text(digest(manifest_path(copy).read_bytes()))
        fsync_file(folder / COPIED)
        self._adopt_strangers(folder)
        for path in (folder, *folder.rglob("*")):  # on disk before it takes the place of another
            if path.is_dir():
                fsync_folder(path)

    def _adopt_strangers(self, folder: Path) -> None:
        """Puts to the run what somebody has put there who was not, or no more, its writer."""
        manifest = load_manifest(folder)
        if manifest.loop is not None:  # two loops that went on from one place have given the same ids twice
            return
        there = {name: int(info["size"]) for name, info in self._reading.listing().items()}
        known = wanted_files(manifest, there).keys()
        strangers = [
            name
            for name in sorted(there, key=lambda name: (name.startswith("steps/"), name))
            if name.startswith(("journal/", "episodes/", "steps/"))
            and name.endswith((".jsonl", ".parquet"))
            and name not in known
            and not is_replaced(name, there[name], manifest)
        ]
        replaced: dict[str, int] = {}
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".strangers-") as scratch:
            for name in strangers:
                try:
                    for file in {name, name.replace("episodes/", "steps/", 1)}:
                        self._reading.get(file, Path(scratch) / file)
                    if name.startswith("steps/"):
                        is_in_run = has_steps_of_run_only(folder, Path(scratch) / name)
                    else:
                        added = add_episodes(folder, read_stranger(Path(scratch), name))
                        is_in_run = True
                        if added:
                            _log.warning("%d episodes of %s/%s are put to the run", added, self._uri, name)
                except (FileNotFoundError, RunFolderError) as error:
                    _log.warning(
                        "%s/%s is not part of the run, and is left alone: %s", self._uri, name, error
                    )
                    continue
                if is_in_run:
                    replaced[name] = (Path(scratch) / name).stat().st_size
        if replaced:
            manifest = load_manifest(folder)
            replaced = manifest.replaced | replaced
            write_manifest(folder, manifest.model_copy(update={"replaced": replaced}))

    def _keep_local(self, fetched: Path, claimed: str | None) -> bool:
        """Whether the local folder stays; else what only it has is put to the other, or it is set aside."""
        mine, theirs = load_manifest(self.path), load_manifest(fetched)
        if not is_same_run(mine, theirs):
            self._set_aside(fetched, "are another run's")
            return False
        for name in MUTABLE:
            if (self.path / name).exists() and not (fetched / name).exists():
                shutil.copyfile(self.path / name, fetched / name)
        seen = [writer for writer in theirs.writers if writer != claimed]
        lacking = count_unseen(self.path, fetched)
        is_ahead = set(seen) <= set(mine.writers) and (lacking > 0 or len(mine.writers) > len(seen))
        if is_ahead and count_unseen(fetched, self.path) == 0:
            return True
        if lacking and theirs.loop is not None:
            self._set_aside(fetched, "were played by a loop that another one has gone on from")
        elif lacking:
            try:
                added = add_episodes(fetched, find_unseen(self.path, fetched), states=self.path)
            except RunFolderError as error:
                self._set_aside(fetched, f"cannot be read: {error}")
                return False
            _log.warning("%d episodes that %s lacked are put to the others", added, self._uri)
        return False

    def _set_aside(self, fetched: Path, why: str) -> None:
        """Keeps a copy of the local folder, whose episodes cannot be put to the run."""
        number = 1
        while (aside := self._beside(f"aside-{number}")).exists():
            number += 1
        made = self._beside("setting-aside")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(self.path, made)
        for path in made.rglob("*"):  # on disk before what it was copied from goes
            fsync_folder(path) if path.is_dir() else fsync_file(path)
        made.rename(aside)
        fsync_folder(aside.parent)
        _log.warning(
            "%s holds episodes that %s lacks and that %s; they are kept in %s, which `kumite show` reads",
            self.path,
            self._uri,
            why,
            aside,
        )


def digest(content: bytes) -> str:
    """The digest by which a manifest is noted."""
    return hashlib.sha256(content).hexdigest()


def is_same_run(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests are of one run."""
    return (one.run_id, one.created) == (other.run_id, other.created)


def is_replaced(name: str, size: int, manifest: Manifest) -> bool:
    """Whether a file at the URI may go: what is in it is in the run elsewhere, or was taken out of it."""
    if manifest.replaced.get(name) == size:
        return True
    stem = name.removeprefix("journal/").removesuffix(".jsonl")
    if name != f"journal/{stem}.jsonl":
        return False
    sizes = [shard.bytes for shard in manifest.shards if shard.segment == stem]
    is_own = manifest.writer is not None and segment_writer(stem) == manifest.writer
    return bool(sizes) and (is_own or (sizes[0] is not None and size <= sizes[0]))
