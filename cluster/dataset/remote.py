"""A run folder on a file system that is not this machine's: a copy that follows the local one."""

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from cluster.cache import cache_dir
from cluster.dataset.claims import Claims, RunTakenUp, name_manifest
from cluster.dataset.durable import RunFolderError, RunFolderLocked, lock_folder, naming_place
from cluster.dataset.followed_folder import OWN, FollowedFolder, digest, is_replaced, is_same_run
from cluster.dataset.manifest import Manifest, load_manifest, manifest_path, new_writer, parse_manifest
from cluster.dataset.places import is_uri, open_uri
from cluster.dataset.reading_copy import BEGINNING, MUTABLE, TASKS, ReadingCopies, RunChanged
from cluster.dataset.take_up import COPIED, take_up
from cluster.errors import ConfigError, RunError
from workers.cancellation import cancel_and_wait, run_to_end

__all__ = ["RemoteFolder", "is_uri", "local_folder", "open_uri"]

_log = logging.getLogger(__name__)
_DATA = ("episodes", "steps", "states", TASKS)
"""Folders whose files never change under their name."""


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
        self._folder = FollowedFolder(self.local, self.uri, self._claims, self._reading)
        self._folder.mend()
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
            where = f"; a run that began there is in {self.local}" if self._folder.has_run() else ""
            raise ConfigError(f"{self.uri} holds no run: there is no manifest.json in it{where}")
        try:
            return self.local if self._folder.is_up_to_date() else self._reading.take()
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
            if self._folder.has_run():  # whose first copy has never come there
                return self.local
            raise ConfigError(f"{self.uri} holds no run: there is no manifest.json in it")
        try:
            with self._folder.being_replaced():
                self.local.mkdir(parents=True, exist_ok=True)
                lock = lock_folder(self.local)
                try:
                    lock = self._folder.synchronise(lock, None)
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
            is_own = there is None or self._folder.is_up_to_date()
            local = load_manifest(self.local) if self._folder.has_run() else None
            last = local if there is None else parse_manifest(there, self.uri)
            if last is None or (is_new and there is not None):
                raise RunTakenUp(f"another run has just begun at {self.uri}; give this one another place")
            if is_new:
                claim = last.as_claim()
                begun_with = [self.local / name for name in BEGINNING if (self.local / name).exists()]
                self._claims.put_beginning(claim, {path.name: path.read_bytes() for path in begun_with})
            else:
                known = local.take_ups if local is not None and is_same_run(local, last) else 0
                changes = {"take_ups": max(last.take_ups, known)}
                claim = last.model_copy(update=changes).taken_up(new_writer(), None)
            try:
                # Where the URI has lost the run, it is this folder's manifest that is claimed with.
                self._claims.claim(self._without_missing(claim) if there is None else claim)
            except RunTakenUp:
                if is_new:
                    self._claims.remove_beginning(claim)
                raise
            if not is_own:
                with self._folder.being_replaced():
                    lock = self._folder.synchronise(lock, claim.writer)
            manifest = load_manifest(self.local)
            if manifest.writer != claim.writer:
                manifest = manifest.model_copy(update={"take_ups": claim.take_ups - 1})
            self._folder.note(OWN)
            manifest = take_up(self.local, manifest, str(claim.writer))
            self.copy(is_beginning=True)
            if is_new:
                self._claims.remove_beginning(claim)
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
            self._claims.remove_beginning(manifest)
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
        with naming_place(self.local):
            self.local.mkdir(parents=True, exist_ok=True)
            if not (self.local / COPIED).exists():
                self._folder.note()
        follower = asyncio.create_task(self._follow(every), name="remote folder")
        try:
            yield
        finally:
            try:
                await run_to_end(self._copy_finally(follower))
            except OSError as error:
                raise RunError(
                    f"the run is whole in {self.local}, but could not be copied to {self.uri}: {error}; "
                    f"`kumite run --resume {self.uri}`, on this machine, tries again"
                ) from error

    async def _copy_finally(self, follower: asyncio.Task[None]) -> None:
        await cancel_and_wait([follower])
        await asyncio.to_thread(self.copy, check=True)

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

    def copy(self, *, check: bool = False, is_beginning: bool = False) -> None:
        """Copies what has changed; waits for another copy that is under way.

        Args:
            check: Whether to look again at what is there, and not to go by what this process has put there.
            is_beginning: Whether the journal has not been mended yet, and is to be left out.

        Raises:
            RunTakenUp: Another process has taken the run up. What this machine has stays here.
            OSError: Something could not be copied.
        """
        with self._copying:
            try:
                if check:
                    self._there = self._put_last = None
                self._copy(is_beginning)
            except (OSError, RunFolderError):
                raise
            except RunTakenUp as error:
                raise RunTakenUp(
                    f"{error}; the episodes that it lacks are safe in {self.local}, and `kumite run --resume "
                    f"{self.uri}`, on this machine, puts them to the others"
                ) from error
            except Exception as error:  # what a file system raises may be its own
                raise OSError(f"{type(error).__name__}: {error}") from error

    def _copy(self, is_beginning: bool) -> None:
        if not self._folder.has_run():
            if not self.holds_run():  # nobody has taken it up
                self._there = {}
                for name in MUTABLE:
                    self._put(name, self._there)
            return
        manifest = load_manifest(self.local)
        if self._put_last is None or not self._claims.holds(manifest):
            self._claim(manifest)
            self._there = self._put_last = None
        else:
            self._claims.check(manifest)
        there = self._there = self._list_remote(self._there or {})
        text = b""
        while True:
            last = text
            journal = [] if is_beginning else self._names("journal", "*.jsonl")
            text = manifest_path(self.local).read_bytes()
            manifest = parse_manifest(text, manifest_path(self.local))
            # Steps first: where the episodes are, there is all of a shard.
            shards = [file for shard in manifest.shards for file in (shard.steps_file, shard.episodes_file)]
            made = self._names("sequences", "*.parquet")
            mutable = [name for name in MUTABLE if (self.local / name).exists()]
            tasks = self._names(TASKS, "*.parquet")
            wanted = (*tasks, *manifest.states, *shards, *made, *journal)
            missing = [name for name in wanted if not self._put(name, there)]
            if not missing:
                break  # else compaction has taken one away meanwhile, and put something in its place
            if text == last:
                raise FileNotFoundError(f"{self.local / missing[0]} is gone, and manifest.json names it")
        for name in mutable:
            self._put(name, there)
        self._put_manifest(manifest, text)
        for name in [name for name, (_, size) in there.items() if is_replaced(name, size, manifest)]:
            self._fs.rm_file(f"{self._root}/{name}")
            del there[name]
        self._claims.check(manifest)

    def _names(self, folder: str, pattern: str) -> list[str]:
        """Files of a folder that are not empty."""
        found = sorted((self.local / folder).glob(pattern))
        names = [f"{folder}/{path.name}" for path in found]
        return [name for name in names if (version := self._version(name)) and version[0]]

    def _claim(self, manifest: Manifest) -> None:
        if self._claims.holds(manifest):
            self._claims.check(manifest)
        else:
            self._claims.claim(self._without_missing(manifest))

    def _without_missing(self, manifest: Manifest) -> Manifest:
        """The manifest, naming no file that the URI lacks: the files come before a manifest that names them.

        Where the URI lacks a shard that was written anew, and has the one before, that one is named.
        """
        if not manifest.shards and not manifest.states:
            return manifest
        there = self._list_remote({})

        def is_there(name: str) -> bool:
            return there.get(name, ((), 0))[0] != ()

        text = self._claims.last()
        before = [] if text is None else parse_manifest(text, self.uri).shards
        found = {s.segment: s for s in before if s.steps_file in there and s.episodes_file in there}
        found |= {
            s.segment: s for s in manifest.shards if is_there(s.steps_file) and is_there(s.episodes_file)
        }
        shards = [found[shard.segment] for shard in manifest.shards if shard.segment in found]
        named = {file for shard in shards for file in (shard.steps_file, shard.episodes_file)}
        replaced = {name: size for name, size in manifest.replaced.items() if name not in named}
        states = [name for name in manifest.states if is_there(name)]
        return manifest.model_copy(update={"shards": shards, "states": states, "replaced": replaced})

    def _list_remote(
        self, known: dict[str, tuple[tuple[int, ...], int]]
    ) -> dict[str, tuple[tuple[int, ...], int]]:
        """What is there already: to be brought up to date, or removed.

        Args:
            known: What this process has put there. It counts where a file of that size is there: what was put
                there may have been lost since.
        """
        found: dict[str, tuple[tuple[int, ...], int]] = {}
        for name, info in self._reading.listing().items():
            folder = name.partition("/")[0]
            if name in known and known[name][1] == info["size"]:
                found[name] = known[name]
            elif folder in (*_DATA, "journal", "sequences"):
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
        if self._put_last == text and self._claims.last() == text:
            return
        # Whether it has come there is not known if this process ends in between: then either may be there.
        self._folder.note(*self._folder.noted()[-2:], digest(text), OWN)
        self._claims.put(manifest)
        self._claims.check(manifest)
        self._write("manifest.json", text)
        self._folder.note(digest(text), OWN)
        self._put_last = text

    def _write(self, name: str, content: bytes) -> None:
        remote = f"{self._root}/{name}"
        self._fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(remote, content)


def local_folder(place: str) -> Path:
    """A run's folder on this machine, for reading: the path itself; of a URI, what `RemoteFolder.read` gives.

    Raises:
        ConfigError: There is no run at the URI, or it cannot be read.
    """
    return RemoteFolder(place).read() if is_uri(place) else Path(place)
