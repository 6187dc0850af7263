"""A bucket and a disk that fail, stop, and lose what was written last, at a chosen moment."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

SCHEME = "bucket"


class Killed(BaseException):
    """The process was killed here: nothing that it does from now on is seen by anybody."""


class Bucket(MemoryFileSystem):
    """A bucket in memory; `Bucket.before` is called before each change, with what is done and to what."""

    protocol = SCHEME
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before: Callable[[str, str], object] | None = None
    after: Callable[[str, str], None] | None = None
    gets = 0
    """Files that were read as a whole."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = path.removeprefix(f"{SCHEME}://").strip("/")
        return f"/{path}" if path else ""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        _told(Bucket.before, "put", path)
        super().pipe_file(path, value, mode, **options)
        _told(Bucket.after, "put", path)

    def rm_file(self, path: str) -> None:
        _told(Bucket.before, "remove", path)
        self.store.pop(self._strip_protocol(path), None)
        _told(Bucket.after, "remove", path)

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        _told(Bucket.before, "get", rpath)
        Bucket.gets += 1
        super().get_file(rpath, lpath, **options)

    @classmethod
    def clear(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.before = cls.after = None


fsspec.register_implementation(SCHEME, Bucket, clobber=True)


def _told(hook: Callable[[str, str], object] | None, what: str, path: str) -> None:
    if hook is not None:
        hook(what, path)


class Disk:
    """Watches the durable steps of this process, and can kill it before one of them.

    Args:
        folder: All that the process writes to; put back as it was at the kill when that is over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.synced: dict[tuple[int, int], int] = {}
        """Bytes of each file that were synced, by device and inode."""
        self.steps_left: int | None = None
        self.is_dead = False
        self._lock = threading.RLock()
        self._saved = folder.with_name(f"{folder.name}.saved")
        self._bucket: dict[str, Any] = {}

    def step(self, *_: object) -> None:
        """A durable step is about to be done."""
        with self._lock:
            if self.is_dead:
                raise Killed
            if self.steps_left is not None:
                self.steps_left -= 1
                if self.steps_left < 0:
                    self.die()
                    raise Killed

    def die(self) -> None:
        """Keeps all as it is now: the process is dead."""
        self.is_dead = True
        shutil.copytree(self.folder, self._saved, symlinks=True)
        for path in self._saved.rglob("journal/*.jsonl"):
            status = (self.folder / path.relative_to(self._saved)).stat()
            synced = self.synced.get((status.st_dev, status.st_ino), 0)
            path.with_suffix(".synced").write_text(str(synced))
        self._bucket = dict(Bucket.store)

    def come_back(self, lose: Callable[[bytes, int], bytes] | None = None) -> None:
        """Puts all as it was at the kill, after what was going on then has stopped.

        Args:
            lose: What a loss of power makes of a journal's file, of which so many bytes were synced.
        """
        shutil.rmtree(self.folder)
        self._saved.rename(self.folder)
        for note in list(self.folder.rglob("journal/*.synced")):
            segment, synced = note.with_suffix(".jsonl"), int(note.read_text())
            if lose is not None:
                segment.write_bytes(lose(segment.read_bytes(), synced))
            # What was synced once stays so: the files that are put back have other inodes.
            status = segment.stat()
            self.synced[status.st_dev, status.st_ino] = min(synced, status.st_size)
            note.unlink()
        Bucket.store.clear()
        Bucket.store.update(self._bucket)
        self.is_dead, self.steps_left = False, None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Has this process's durable steps counted."""
        fsync, replace, unlink, rename = os.fsync, Path.replace, Path.unlink, Path.rename
        before = Bucket.before

        def watched_fsync(descriptor: int) -> None:
            self.step()
            fsync(descriptor)
            status = os.fstat(descriptor)
            self.synced[status.st_dev, status.st_ino] = status.st_size

        def watching(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                self.step()
                return real(*arguments, **options)

            return call

        def in_bucket(what: str, path: str) -> None:
            self.step()
            _told(before, what, path)

        os.fsync = watched_fsync
        Path.replace, Path.unlink, Path.rename = watching(replace), watching(unlink), watching(rename)  # type: ignore[method-assign]
        Bucket.before = in_bucket
        try:
            yield
        finally:
            os.fsync = fsync
            Path.replace, Path.unlink, Path.rename = replace, unlink, rename  # type: ignore[method-assign]
            Bucket.before = before
