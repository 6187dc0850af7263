"""Copies of a run at a URI, for reading: each is the run as it was at one moment."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from cluster.dataset.claims import Claims
from cluster.dataset.durable import fsync_file, fsync_folder
from cluster.dataset.manifest import Manifest, ManifestError, manifest_path, parse_manifest
from cluster.dataset.shards import belongs_to_run

BEGINNING = ("config.yaml", "environment.py", "chat_template.jinja")
"""Files of a run folder that a run begins with, and that it takes to take it up."""
MUTABLE = (
    *BEGINNING,
    "packages.json",
    "run.json",
    "summary.json",
    "metrics.jsonl",
    "log.jsonl",
)
"""Files of a run folder that change under their name, or that a run has one of."""
TASKS = "tasks"
"""Folder of a run folder with lists of the run's tasks, whose files never change under their name."""
_KEYS = ".keys.json"
_IN_USE = ".in-use"
_STAMPS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call what changes with a file's content."""
_KEPT = 3
"""Copies that stay beside the newest one."""
_MAX_HELD = 100
"""Copies of one run that a process holds; each takes a file descriptor."""
_ATTEMPTS = 10

_in_use: dict[Path, IO[bytes]] = {}
"""Copies that this process may be reading, the one taken last at the end."""


class RunChanged(Exception):
    """Something has changed at the URI between two looks at it."""


class ReadingCopies:
    """The copies of one run.

    Args:
        file_system: The file system of the URI, as fsspec has it.
        root: The run's path there.
        claims: The run's manifests there.
        folder: Where the copies are on this machine.
    """

    def __init__(self, file_system: Any, root: str, claims: Claims, folder: Path) -> None:
        self._fs = file_system
        self._root = root
        self._claims = claims
        self._folder = folder

    def take(self) -> Path:
        """A folder with the run as it is now.

        It stays until this process ends or has taken 100 later ones of the run, as one does that watches a
        run at work. What has been fetched before and has not changed is not fetched again.

        Raises:
            ManifestError: There is no run, or its manifest is damaged.
            OSError: The place cannot be read.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(_ATTEMPTS):
            try:
                # A file that the manifest names and that stays away is for whoever reads it to complain of.
                return self._take(is_last=attempt == _ATTEMPTS - 1)
            except (FileNotFoundError, RunChanged, ManifestError):
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.05 * attempt)
        raise AssertionError("unreachable")

    def listing(self) -> dict[str, dict[str, Any]]:
        """What is there: the file system's own description of each file, by its name in the run."""
        self._fs.invalidate_cache()
        found = self._fs.find(self._root, detail=True)
        return {str(path)[len(self._root) :].strip("/"): info for path, info in found.items()}

    def get(self, name: str, local: Path, limit: int | None = None) -> None:
        """Fetches a file, or so many bytes of its beginning."""
        local.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(f"{self._root}/{name}", str(local))
        if limit is not None and local.stat().st_size > limit:
            os.truncate(local, limit)

    def _take(self, *, is_last: bool) -> Path:
        there = self.listing()  # before the manifest: a segment that has gone has its shard named in it
        text = self._claims.last()
        if text is None:
            raise ManifestError(f"{self._root} holds no run: there is no manifest.json in it")
        manifest = parse_manifest(text, f"{self._root}/manifest.json")
        keys = {name: self._key(name, there, limit) for name, limit in wanted_files(manifest, there).items()}
        if is_last:
            keys = {name: key for name, key in keys.items() if key is not None}
        elif missing := [name for name, key in keys.items() if key is None]:
            raise RunChanged(f"{missing[0]} is named in the manifest, and is not there")
        contents = json.dumps([hashlib.sha256(text).hexdigest(), keys], sort_keys=True)
        copy = self._folder / hashlib.blake2s(contents.encode(), digest_size=8).hexdigest()
        if not self._hold(copy):
            self._make(copy, text, {name: key for name, key in keys.items() if key})
            if not self._hold(copy):
                raise RunChanged(f"{copy} was removed")
        self._prune(copy)
        return copy

    def _key(self, name: str, there: dict[str, dict[str, Any]], limit: int | None) -> list[Any] | None:
        """What tells a file's content from that of another of its name; None if it is not there."""
        info = there.get(name)
        if info is None:
            try:
                info = self._fs.info(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
        return [info["size"], *(str(info[stamp]) for stamp in _STAMPS if info.get(stamp) is not None), limit]

    def _make(self, copy: Path, manifest: bytes, keys: dict[str, list[Any]]) -> None:
        earlier = self._earlier_files()
        scratch = Path(tempfile.mkdtemp(dir=self._folder, prefix=".making-"))
        try:
            for name, key in keys.items():
                local = scratch / name
                local.parent.mkdir(parents=True, exist_ok=True)
                known = earlier.get((name, json.dumps(key)))
                if known is None or not _link_file(known, local):
                    self.get(name, local, key[-1])
                    if key[-1] is None and name.endswith(".parquet") and local.stat().st_size != key[0]:
                        raise RunChanged(f"{name} has changed while it was fetched")
            manifest_path(scratch).write_bytes(manifest)
            (scratch / _KEYS).write_text(json.dumps(keys))
            (scratch / _IN_USE).touch()
            for path in scratch.rglob("*"):  # else a loss of power leaves files that look whole
                fsync_folder(path) if path.is_dir() else fsync_file(path)
            try:
                scratch.rename(copy)
                fsync_folder(self._folder)
            except OSError:  # another process has made the same
                if not copy.is_dir():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _earlier_files(self) -> dict[tuple[str, str], Path]:
        """What is here: files of earlier copies, by name and key."""
        found: dict[tuple[str, str], Path] = {}
        for listed in self._folder.glob(f"[!.]*/{_KEYS}"):
            try:
                keys: dict[str, list[Any]] = json.loads(listed.read_text())
            except (OSError, ValueError):
                continue
            found |= {(name, json.dumps(key)): listed.parent / name for name, key in keys.items()}
        return found

    def _hold(self, copy: Path) -> bool:
        """Keeps a copy from being removed; False if it is not there."""
        held = _in_use.pop(copy, None)
        if held is not None:
            if (copy / _KEYS).exists():
                _in_use[copy] = held
                return True
            held.close()
        try:
            file = (copy / _IN_USE).open("rb")
        except FileNotFoundError:
            return False
        fcntl.flock(file, fcntl.LOCK_SH)
        if not (copy / _KEYS).exists():
            file.close()
            return False
        os.utime(copy)
        _in_use[copy] = file
        return True

    def _let_go(self) -> None:
        """Lets go of copies that are no longer there, and of all but the newest of this run."""
        here = [path for path in list(_in_use) if path.parent == self._folder]
        gone = [path for path in list(_in_use) if not (path / _KEYS).exists()]
        for path in {*here[:-_MAX_HELD], *gone}:
            if (file := _in_use.pop(path, None)) is not None:
                file.close()

    def _prune(self, newest: Path) -> None:
        """Removes copies that nobody reads, but for a few."""
        self._let_go()
        others = [path for path in self._folder.glob("[!.]*") if path != newest and path not in _in_use]
        others.sort(key=_modified_at, reverse=True)
        for path in others[_KEPT:]:
            try:
                with (path / _IN_USE).open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (path / _KEYS).unlink(missing_ok=True)
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:
                continue


def wanted_files(manifest: Manifest, there: dict[str, Any]) -> dict[str, int | None]:
    """The files that a run consists of, each with the bytes of it that count; None: all.

    Args:
        manifest: The run's.
        there: The names of the files that are there.
    """
    done = {shard.segment for shard in manifest.shards}
    wanted: dict[str, int | None] = {name: None for name in MUTABLE if name in there}
    wanted |= {file: None for shard in manifest.shards for file in (shard.episodes_file, shard.steps_file)}
    wanted |= dict.fromkeys(manifest.states)
    wanted |= {name: None for name in there if name.startswith(f"{TASKS}/")}
    for name in there:
        stem = name.removeprefix("journal/").removesuffix(".jsonl")
        if name == f"journal/{stem}.jsonl" and stem not in done and belongs_to_run(stem, manifest):
            wanted[name] = manifest.segment_sizes().get(stem)
    return wanted


def _link_file(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
