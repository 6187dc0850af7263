"""A run folder on a file system that is not this machine's: a copy that follows the local one."""

import asyncio
import fcntl
import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from cluster.cache import cache_dir
from cluster.dataset.claims import Claims, RunTakenUp, name_manifest
from cluster.dataset.dataset import COPIED, take_up
from cluster.dataset.durable import (
    RunFolderError,
    RunFolderLocked,
    fsync_file,
    fsync_folder,
    lock_folder,
    replacing,
)
from cluster.dataset.journal import segment_writer
from cluster.dataset.manifest import Manifest, load_manifest, manifest_path, new_writer, parse_manifest
from cluster.dataset.merging import (
    add_episodes,
    count_unseen,
    find_unseen,
    has_steps_of_run_only,
    read_stranger,
)
from cluster.dataset.places import is_uri, open_uri
from cluster.dataset.reading_copy import MUTABLE, TASKS, ReadingCopies, RunChanged, wanted_files
from cluster.errors import ConfigError, RunError

__all__ = ["RemoteFolder", "is_uri", "local_folder", "open_uri"]

_log = logging.getLogger(__name__)
_DATA = ("episodes", "steps", "states", TASKS)
"""Folders whose files never change under their name."""
_OWN = "own"
"""What stands in `COPIED` beside the digests: the folder holds all that is at the URI with one of them."""


class RemoteFolder:
    """A run folder at a URI, and the local folder that it follows.

    What is copied is copied in an order in which the copy is a run folder at any moment: data files and
    the journal, then the manifest that names the data files; only then is removed what is not needed now.
    Nothing is removed that this machine has not seen. Whoever takes the run up puts a manifest of its own
    there first (`Claims`); a process that finds a later one copies nothing more.

    Args:
        uri: `s3://bucket/path`, `gs://bucket/path`, or what else fsspec knows.

    Raises:
        ConfigError: The URI's scheme is not known here, or its credentials are not right.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        name = hashlib.blake2s(self.uri.encode(), digest_size=8).hexdigest()
        self.local = cache_dir() / "runs" / name
        """Where the run is written to: on this machine's disk, fsynced."""
        self.sequences = cache_dir() / "sequences" / name
        """Where sequences of the run go that are to be written nowhere else."""
        try:
            self._fs, self._root = open_uri(self.uri)
        except (ImportError, ValueError, OSError) as error:
            raise ConfigError(
                f"{uri} is no place for runs: {error}; give a folder, s3://BUCKET/PATH, gs://BUCKET/PATH, "
                "or a URI of which fsspec's package is installed"
            ) from error
        self._claims = Claims(self._fs, self._root, self.uri)
        self._reading = ReadingCopies(self._fs, self._root, self._claims, cache_dir() / "reading" / name)
        self._there: dict[str, tuple[tuple[int, ...], int]] | None = None
        """What the copy holds: of each file the version of the local one that it is of, and its size."""
        self._put_last: bytes | None = None
        """The manifest that this process has copied last."""
        self._copying = threading.Lock()
        """Two copies at once could remove what the other has just brought."""
        self._tell_taken_up: Callable[[str], None] | None = None

    def holds_run(self) -> bool:
        """Whether there is a run at the URI.

        Raises:
            ConfigError: It cannot be asked.
        """
        try:
            return bool(self._claims.names() or self._fs.exists(f"{self._root}/manifest.json"))
        except OSError as error:
            raise ConfigError(f"{self.uri} cannot be reached: {error}") from error

    def read(self) -> Path:
        """A folder with the run as it is at the URI now, for reading; nothing may be written to it.

        It is the local folder where this machine was the last to write there, and a copy of what is there
        otherwise, of which only what has changed since the last time is fetched.

        Raises:
            ConfigError: There is no run at the URI, or it cannot be read.
        """
        if not self.holds_run():
            where = f"; a run that began there is in {self.local}" if self._has_local() else ""
            raise ConfigError(f"{self.uri} holds no run: there is no manifest.json in it{where}")
        try:
            return self.local if self._is_own() else self._reading.take()
        except (OSError, RunChanged) as error:
            raise ConfigError(f"{self.uri} cannot be read: {error}") from error

    def fetch(self) -> Path:
        """Makes the local folder what the remote one is, for the run to be taken up here.

        Episodes of the local one that the remote one lacks are kept: it stays as it is if it has all that
        is there; else they are put to what is fetched, or, where they are another run's, set aside. What
        others have put there without its being part of the run is put to it, too.

        Raises:
            ConfigError: There is no run at the URI, or it cannot be read.
        """
        if not self.holds_run():
            if self._has_local():  # whose first copy has never come there
                return self.local
            raise ConfigError(f"{self.uri} holds no run: there is no manifest.json in it")
        try:
            with self._fetching():
                self.local.mkdir(parents=True, exist_ok=True)
                lock = lock_folder(self.local)
                try:
                    lock = self._synchronise(lock, None)
                finally:
                    lock.close()
        except RunFolderLocked:
            return self.local  # a run is writing it
        except (OSError, RunChanged) as error:
            raise ConfigError(f"{self.uri} cannot be read: {error}") from error
        return self.local

    def take_up(self, lock: IO[bytes], *, is_new: bool) -> tuple[IO[bytes], Manifest]:
        """Takes the run up: says so at the URI before anything else, and only then looks at what is there.

        Args:
            lock: The local folder's lock; where the folder is replaced, it is closed.
            is_new: Whether the run begins; then there may be none at the URI.

        Returns:
            The local folder's lock, and its manifest.

        Raises:
            RunTakenUp: Another process takes it up at the same moment, and goes first.
            ConfigError: The URI cannot be read or written.
        """
        try:
            there = self._claims.last()
            is_own = there is None or self._is_own()
            local = load_manifest(self.local) if self._has_local() else None
            last = local if there is None else parse_manifest(there, self.uri)
            if last is None or (is_new and there is not None):
                raise RunTakenUp(f"another run has just begun at {self.uri}; give this one another place")
            if is_new:
                claim = last.model_copy(update={"taken_over": None})
            else:
                known = local.take_ups if local is not None and _is_same_run(local, last) else 0
                changes = {"take_ups": max(last.take_ups, known)}
                claim = last.model_copy(update=changes).taken_up(new_writer(), None)
            self._claims.claim(claim)
            if not is_own:
                with self._fetching():
                    lock = self._synchronise(lock, claim.writer)
            manifest = load_manifest(self.local)
            if manifest.writer != claim.writer:
                manifest = manifest.model_copy(update={"take_ups": claim.take_ups - 1})
            self._note_copied(_OWN)
            manifest = take_up(self.local, manifest, str(claim.writer))
            self.copy()
        except (OSError, RunChanged) as error:
            raise ConfigError(f"{self.uri} cannot be read or written: {error}") from error
        return lock, manifest

    def withdraw(self, manifest: Manifest) -> None:
        """Takes back that a new run began there which came to nothing."""
        try:
            if not self._claims.holds(manifest):
                return
            if self._claims.names()[-1] == name_manifest(manifest):
                for name in ("manifest.json", *(name for name in MUTABLE if (self.local / name).exists())):
                    self._fs.rm_file(f"{self._root}/{name}")
            self._claims.withdraw(manifest)
        except OSError as error:
            _log.warning("%s cannot be given back: %s", self.uri, error)

    def when_taken_up(self, tell: Callable[[str], None]) -> None:
        """Has it told, once, that another process has taken the run up."""
        self._tell_taken_up = tell

    @asynccontextmanager
    async def following(self, every: float) -> AsyncGenerator[None]:
        """Copies now, every so many seconds, and when left. A copy that fails is made again later.

        Raises:
            RunError: The last one fails, or another process has taken the run up.
        """
        self.local.mkdir(parents=True, exist_ok=True)
        if not (self.local / COPIED).exists():
            self._note_copied()
        follower = asyncio.create_task(self._follow(every), name="remote folder")
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.wait([follower])
            try:
                await asyncio.to_thread(self.copy, check=True)
            except OSError as error:
                raise RunError(
                    f"the run is whole in {self.local}, but could not be copied to {self.uri}: {error}; "
                    f"`kumite run --resume {self.uri}`, on this machine, tries again"
                ) from error

    async def _follow(self, every: float) -> None:
        while True:
            try:
                await asyncio.to_thread(self.copy)
            except RunTakenUp as error:
                _log.warning("%s", error)
                if self._tell_taken_up is not None:
                    self._tell_taken_up(str(error))
                return
            except OSError as error:
                _log.warning("%s could not be brought up to date: %s", self.uri, error)
            await asyncio.sleep(every)

    def copy(self, *, check: bool = False) -> None:
        """Copies what has changed; waits for another copy that is under way.

        Args:
            check: Whether to look again at what is there, and not to go by what this process has put there.

        Raises:
            RunTakenUp: Another process has taken the run up. What this machine has stays here.
            OSError: Something could not be copied.
        """
        with self._copying:
            try:
                if check:
                    self._there = None
                self._copy()
            except (OSError, RunFolderError):
                raise
            except RunTakenUp as error:
                raise RunTakenUp(
                    f"{error}; the episodes that it lacks are safe in {self.local}, and `kumite run --resume "
                    f"{self.uri}`, on this machine, puts them to the others"
                ) from error
            except Exception as error:  # what a file system raises may be its own
                raise OSError(f"{type(error).__name__}: {error}") from error

    def _copy(self) -> None:
        if not self._has_local():
            if not self.holds_run():  # nobody has taken it up
                self._there = {}
                for name in MUTABLE:
                    self._put(name, self._there)
            return
        manifest = load_manifest(self.local)
        if self._put_last is None or not self._claims.holds(manifest):
            self._claim(manifest)
            self._there = None
        else:
            self._claims.check(manifest)
        there = self._there = self._listed(manifest) if self._there is None else self._there
        while True:
            journal = [f"journal/{path.name}" for path in sorted((self.local / "journal").glob("*.jsonl"))]
            text = manifest_path(self.local).read_bytes()
            manifest = parse_manifest(text, manifest_path(self.local))
            # Steps first: where the episodes are, there is all of a shard.
            shards = [file for shard in manifest.shards for file in (shard.steps_file, shard.episodes_file)]
            made = [f"sequences/{path.name}" for path in sorted((self.local / "sequences").glob("*.parquet"))]
            mutable = [name for name in MUTABLE if (self.local / name).exists()]
            tasks = [f"{TASKS}/{path.name}" for path in sorted((self.local / TASKS).glob("*.parquet"))]
            if all([self._put(name, there) for name in (*tasks, *manifest.states, *shards, *made, *journal)]):
                break  # else compaction has taken one away meanwhile, and put something in its place
        for name in mutable:
            self._put(name, there)
        self._put_manifest(manifest, text)
        for name in [name for name, (_, size) in there.items() if _is_replaced(name, size, manifest)]:
            self._fs.rm_file(f"{self._root}/{name}")
            del there[name]
        self._claims.check(manifest)

    def _claim(self, manifest: Manifest) -> None:
        if self._claims.holds(manifest):
            self._claims.check(manifest)
        else:
            self._claims.claim(manifest)

    def _listed(self, manifest: Manifest) -> dict[str, tuple[tuple[int, ...], int]]:
        """What is there already: to be brought up to date, or removed."""
        found: dict[str, tuple[tuple[int, ...], int]] = {}
        for name, info in self._reading.listing().items():
            folder = name.partition("/")[0]
            if folder in (*_DATA, "journal", "sequences"):
                version = self._version(name)
                is_same = folder in _DATA and version is not None and version[0] == info["size"]
                found[name] = (version if version is not None and is_same else (), info["size"])
        return found

    def _version(self, name: str) -> tuple[int, ...] | None:
        """What tells a file of the local folder from an earlier one of its name, whatever the clock says."""
        try:
            status = (self.local / name).stat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino

    def _put(self, name: str, there: dict[str, tuple[tuple[int, ...], int]]) -> bool:
        """Copies a file that has changed; says whether the local one is still there."""
        version = self._version(name)
        if version is None or there.get(name, ((), 0))[0] == version:
            return version is not None
        try:
            content = (self.local / name).read_bytes()
        except FileNotFoundError:
            return False
        self._write(name, content)
        there[name] = (version, len(content))
        return True

    def _put_manifest(self, manifest: Manifest, text: bytes) -> None:
        if self._put_last == text:
            return
        # Whether it has come there is not known if this process ends in between: then either may be there.
        self._note_copied(*self._copied()[-2:], _digest(text), _OWN)
        self._claims.put(manifest)
        self._claims.check(manifest)
        self._write("manifest.json", text)
        self._note_copied(_digest(text), _OWN)
        self._put_last = text

    def _write(self, name: str, content: bytes) -> None:
        remote = f"{self._root}/{name}"
        self._fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(remote, content)

    def _has_local(self) -> bool:
        return manifest_path(self.local).exists()

    def _copied(self) -> list[str]:
        try:
            return (self.local / COPIED).read_text().split()
        except FileNotFoundError:
            return []

    def _note_copied(self, *words: str) -> None:
        with replacing(self.local / COPIED) as temporary:
            temporary.write_text("\n".join(dict.fromkeys(words)))

    def _is_own(self) -> bool:
        """Whether all that is at the URI is in the local folder, since this machine was the last to write."""
        there = self._claims.last()
        words = self._copied()
        if there is None or not self._has_local() or _digest(there) not in words:
            return False
        return _OWN in words or parse_manifest(there, self.uri).writer is None

    @contextmanager
    def _fetching(self) -> Generator[None]:
        """Lets one process at a time replace the local folder, and mends what a killed one left."""
        self.local.parent.mkdir(parents=True, exist_ok=True)
        replaced = self._beside("replaced")
        with self._beside("fetching").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if replaced.exists() and not self._has_local():
                shutil.rmtree(self.local, ignore_errors=True)
                replaced.rename(self.local)
            shutil.rmtree(replaced, ignore_errors=True)
            yield

    def _beside(self, ending: str) -> Path:
        return self.local.with_name(f"{self.local.name}.{ending}")

    def _synchronise(self, lock: IO[bytes], claimed: str | None) -> IO[bytes]:
        """Brings the local folder up to date with the remote one, and loses nothing that is in it.

        Args:
            lock: The local folder's lock.
            claimed: The id with which this process has just taken the run up there, if it has.

        Returns:
            The local folder's lock: of another folder, if it was replaced.
        """
        if claimed is None and self._is_own():
            return lock
        with tempfile.TemporaryDirectory(dir=self.local.parent, prefix=".fetched-") as scratch:
            fetched = Path(scratch) / "run"
            self._fetch_into(fetched)
            if self._has_local() and self._keep_local(fetched, claimed):
                self._note_copied(_digest(self._claims.last() or b""), _OWN)
                return lock
            new_lock = lock_folder(fetched)
            try:
                self.local.rename(self._beside("replaced"))
                fetched.rename(self.local)
            except BaseException:
                new_lock.close()
                raise
        lock.close()
        fsync_folder(self.local.parent)
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
        (folder / COPIED).write_text(_digest(manifest_path(copy).read_bytes()))
        self._adopt_strangers(folder)

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
            and not _is_replaced(name, there[name], manifest)
        ]
        replaced: dict[str, int] = {}
        with tempfile.TemporaryDirectory(dir=self.local.parent, prefix=".strangers-") as scratch:
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
                            _log.warning("%d episodes of %s/%s are put to the run", added, self.uri, name)
                except (FileNotFoundError, RunFolderError) as error:
                    _log.warning("%s/%s is not part of the run, and is left alone: %s", self.uri, name, error)
                    continue
                if is_in_run:
                    replaced[name] = (Path(scratch) / name).stat().st_size
        if replaced:
            manifest = load_manifest(folder)
            replaced = manifest.replaced | replaced
            manifest_path(folder).write_text(
                manifest.model_copy(update={"replaced": replaced}).model_dump_json()
            )

    def _keep_local(self, fetched: Path, claimed: str | None) -> bool:
        """Whether the local folder stays; else what only it has is put to the other, or it is set aside."""
        mine, theirs = load_manifest(self.local), load_manifest(fetched)
        if not _is_same_run(mine, theirs):
            self._set_aside(fetched, "are another run's")
            return False
        for name in MUTABLE:
            if (self.local / name).exists() and not (fetched / name).exists():
                shutil.copyfile(self.local / name, fetched / name)
        seen = [writer for writer in theirs.writers if writer != claimed]
        lacking = count_unseen(self.local, fetched)
        is_ahead = set(seen) <= set(mine.writers) and (lacking > 0 or len(mine.writers) > len(seen))
        if is_ahead and count_unseen(fetched, self.local) == 0:
            return True
        if lacking and theirs.loop is not None:
            self._set_aside(fetched, "were played by a loop that another one has gone on from")
        elif lacking:
            try:
                added = add_episodes(fetched, find_unseen(self.local, fetched), states=self.local)
            except RunFolderError as error:
                self._set_aside(fetched, f"cannot be read: {error}")
                return False
            _log.warning("%d episodes that %s lacked are put to the others", added, self.uri)
        return False

    def _set_aside(self, fetched: Path, why: str) -> None:
        """Keeps a copy of the local folder, whose episodes cannot be put to the run."""
        number = 1
        while (aside := self._beside(f"aside-{number}")).exists():
            number += 1
        shutil.copytree(self.local, aside)
        _log.warning(
            "%s holds episodes that %s lacks and that %s; they are kept in %s, which `kumite show` reads",
            self.local,
            self.uri,
            why,
            aside,
        )


def local_folder(place: str) -> Path:
    """A run's folder on this machine, for reading: the path itself; of a URI, what `RemoteFolder.read` gives.

    Raises:
        ConfigError: There is no run at the URI, or it cannot be read.
    """
    return RemoteFolder(place).read() if is_uri(place) else Path(place)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_same_run(one: Manifest, other: Manifest) -> bool:
    return (one.run_id, one.created) == (other.run_id, other.created)


def _is_replaced(name: str, size: int, manifest: Manifest) -> bool:
    """Whether a file at the URI may go: what is in it is in the run elsewhere, or was taken out of it."""
    if manifest.replaced.get(name) == size:
        return True
    stem = name.removeprefix("journal/").removesuffix(".jsonl")
    if name != f"journal/{stem}.jsonl":
        return False
    sizes = [shard.bytes for shard in manifest.shards if shard.segment == stem]
    is_own = manifest.writer is not None and segment_writer(stem) == manifest.writer
    return bool(sizes) and (is_own or (sizes[0] is not None and size <= sizes[0]))
