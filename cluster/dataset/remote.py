"""A run folder on a file system that is not this machine's: a copy that follows the local one."""

import asyncio
import hashlib
import logging
import shutil
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as arrow_fs
from fsspec.implementations.arrow import ArrowFSWrapper

from cluster.cache import cache_dir
from cluster.dataset.durable import RunFolderLocked, lock_folder, replacing
from cluster.errors import ConfigError, RunError

_log = logging.getLogger(__name__)
_BY_ARROW = ("s3", "gs", "gcs")
"""Schemes that Arrow brings a file system for; fsspec wants a package more for each."""
_MUTABLE = ("config.yaml", "run.json", "environment.py", "summary.json", "metrics.jsonl", "log.jsonl")
_IMMUTABLE = ("episodes", "steps", "states")
"""Folders whose files never change under their name."""
_DATA = (*_IMMUTABLE, "sequences")
_COPIED = ".copied"
"""A file of the local folder: digests of the manifest that was copied last, and of one about to be."""


def is_uri(place: str) -> bool:
    """Whether this names a place by scheme, `s3://…`, and not by a path."""
    return "://" in place


class RemoteFolder:
    """A run folder at a URI, and the local folder that it follows.

    What is copied is copied in an order in which the copy is a run folder at any moment: data files and
    the journal, then the manifest that names the data files; only then is removed what is not needed now.
    The manifest is read after the journal's segments are listed and before the data files are: a segment
    that is missing has its shard named in it, and what it names is there to be copied.

    Args:
        uri: `s3://bucket/path`, `gs://bucket/path`, or what else fsspec knows.

    Raises:
        ConfigError: The URI's scheme is not known here, or its credentials are not right.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.local = cache_dir() / "runs" / hashlib.blake2s(self.uri.encode(), digest_size=8).hexdigest()
        """Where the run is written to: on this machine's disk, fsynced."""
        try:
            self._fs, self._root = open_uri(self.uri)
        except (ImportError, ValueError, OSError) as error:
            raise ConfigError(
                f"{uri} is no place for runs: {error}; give a folder, s3://BUCKET/PATH, gs://BUCKET/PATH, "
                "or a URI of which fsspec's package is installed"
            ) from error
        self._there: dict[str, tuple[int, int]] | None = None
        """What the copy holds of data and journal: size and time of change of the file it is of, in ns."""
        self._manifest: str | None = None
        """Digest of the manifest that this process copied last."""
        self._copying = threading.Lock()
        """Two copies at once could remove what the other has just brought."""

    def holds_run(self) -> bool:
        """Whether there is a run at the URI.

        Raises:
            ConfigError: It cannot be asked.
        """
        try:
            return bool(self._fs.exists(f"{self._root}/manifest.json"))
        except OSError as error:
            raise ConfigError(f"{self.uri} cannot be reached: {error}") from error

    def fetch(self) -> Path:
        """Makes the local folder what the remote one is, unless this machine was the last to write there.

        Raises:
            ConfigError: There is no run at the URI, or it cannot be read.
        """
        if not self.holds_run():
            raise ConfigError(f"{self.uri} holds no run: there is no manifest.json in it")
        self.local.mkdir(parents=True, exist_ok=True)
        try:
            with lock_folder(self.local):
                if not self._is_behind():
                    return self.local
                for path in self.local.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                self._get_all()
        except RunFolderLocked:
            return self.local  # a run is writing it
        except OSError as error:
            raise ConfigError(f"{self.uri} cannot be read: {error}") from error
        return self.local

    def _is_behind(self) -> bool:
        """Whether another machine has written there since this one last did."""
        copied = self.local / _COPIED
        there = self._fs.cat_file(f"{self._root}/manifest.json")
        return not copied.exists() or _digest(there) not in copied.read_text().split()

    def _get_all(self) -> None:
        for path in sorted(self._fs.find(self._root), key=lambda path: path.endswith("/manifest.json")):
            local = self.local / str(path)[len(self._root) :].strip("/")
            local.parent.mkdir(parents=True, exist_ok=True)
            with replacing(local) as temporary:
                self._fs.get_file(path, str(temporary))

    @asynccontextmanager
    async def following(self, every: float) -> AsyncGenerator[None]:
        """Copies now, every so many seconds, and when left. A copy that fails is made again later.

        Raises:
            RunError: The last one fails.
        """
        follower = asyncio.create_task(self._follow(every), name="remote folder")
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.wait([follower])
            try:
                await asyncio.to_thread(self.copy)
            except OSError as error:
                raise RunError(
                    f"the run is whole in {self.local}, but could not be copied to {self.uri}: {error}; "
                    f"`kumite run --resume {self.uri}`, on this machine, tries again"
                ) from error

    async def _follow(self, every: float) -> None:
        while True:
            try:
                await asyncio.to_thread(self.copy)
            except OSError as error:
                _log.warning("%s could not be brought up to date: %s", self.uri, error)
            await asyncio.sleep(every)

    def copy(self) -> None:
        """Copies what has changed; waits for another copy that is under way.

        Raises:
            OSError: Something could not be copied.
        """
        with self._copying:
            try:
                self._copy()
            except OSError:
                raise
            except Exception as error:  # what a file system raises may be its own
                raise OSError(f"{type(error).__name__}: {error}") from error

    def _copy(self) -> None:
        there = self._there = self._listed() if self._there is None else self._there
        while True:
            journal = self._names("journal", "*.jsonl")
            manifest = self._read("manifest.json")
            data = [name for folder in _DATA for name in self._names(folder, "*.parquet")]
            files = [*data, *journal, *(name for name in _MUTABLE if (self.local / name).exists())]
            if all(self._put(name, there) for name in files):
                break  # else compaction has taken one away meanwhile, and put something in its place
        if manifest is not None:
            self._put_manifest(manifest)
        for name in there.keys() - set(files):
            self._fs.rm_file(f"{self._root}/{name}")
            del there[name]

    def _listed(self) -> dict[str, tuple[int, int]]:
        """What an earlier process has copied: to be brought up to date, or removed."""
        found: dict[str, tuple[int, int]] = {}
        self._fs.invalidate_cache()
        for path, info in self._fs.find(self._root, detail=True).items():
            name = str(path)[len(self._root) :].strip("/")
            folder = name.partition("/")[0]
            if folder not in (*_DATA, "journal"):
                continue
            version = self._version(name)
            is_same = folder in _IMMUTABLE and version and version[0] == info["size"]
            found[name] = version if version and is_same else (-1, -1)
        return found

    def _names(self, folder: str, pattern: str) -> list[str]:
        return [f"{folder}/{path.name}" for path in sorted((self.local / folder).glob(pattern))]

    def _version(self, name: str) -> tuple[int, int] | None:
        try:
            status = (self.local / name).stat()
        except FileNotFoundError:
            return None
        return status.st_size, status.st_mtime_ns

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.local / name).read_bytes()
        except FileNotFoundError:
            return None

    def _put(self, name: str, there: dict[str, tuple[int, int]]) -> bool:
        """Copies a file that has changed; says whether the local one is still there."""
        version = self._version(name)
        if version is None or there.get(name) == version:
            return version is not None
        content = self._read(name)
        if content is not None:
            self._write(name, content)
            there[name] = version
        return content is not None

    def _put_manifest(self, content: bytes) -> None:
        copied, new = self.local / _COPIED, _digest(content)
        if self._manifest == new:
            return
        before = copied.read_text().split() if copied.exists() else []
        # Whether it has come there is not known if this process ends in between: then either may be there.
        copied.write_text("\n".join([*before[-1:], new]))
        self._write("manifest.json", content)
        copied.write_text(new)
        self._manifest = new

    def _write(self, name: str, content: bytes) -> None:
        remote = f"{self._root}/{name}"
        self._fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(remote, content)


def local_folder(place: str) -> Path:
    """A run's folder on this machine: the path itself; of a URI, the local one, brought up to date.

    Raises:
        ConfigError: There is no run at the URI, or it cannot be read.
    """
    return RemoteFolder(place).fetch() if is_uri(place) else Path(place)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def open_uri(uri: str) -> tuple[Any, str]:
    """The file system that a URI is on, as fsspec has it, and the path there.

    Raises:
        ImportError: The scheme's package is not installed.
        ValueError: There is no such scheme.
        OSError: It cannot be reached, or its credentials are not right.
    """
    scheme = uri.partition("://")[0]
    if scheme in _BY_ARROW:
        arrow: Any = arrow_fs
        file_system, path = arrow.FileSystem.from_uri(uri.replace("gcs://", "gs://", 1))
        return ArrowFSWrapper(file_system), path
    spec: Any = fsspec
    return spec.url_to_fs(uri)
