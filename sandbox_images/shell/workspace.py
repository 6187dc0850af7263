"""The workspace's files, reached one path component at a time without ever following a link.

The model's own processes may swap any file for a link at any moment, so a path that was checked is not the
path that is opened. Here nothing is looked up twice: each component is opened below the one before it.
"""

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MAX_DEPTH = 32
"""Levels of folders that a listing goes down: each takes descriptors."""


class FileError(Exception):
    """A file can't be had, in words for the policy to read."""


@dataclass(frozen=True)
class Entry:
    """One thing in the workspace."""

    path: str
    """Relative to the workspace."""
    kind: Literal["file", "folder", "link", "other"]
    size: int
    """Bytes of a file."""


class Workspace:
    """A folder that paths can't lead out of.

    Args:
        root: The folder.
        max_bytes: Largest file to read or write.
    """

    def __init__(self, root: str, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._root_fd = os.open(root, _FOLDER)

    @property
    def descriptor(self) -> int:
        """The open folder: it stays the same one, whatever is moved to its path."""
        return self._root_fd

    def reopen(self) -> None:
        """Takes what is now at the folder's path, if it is a folder: the policy may have made it anew."""
        with suppress(OSError):
            found = os.open(self.root, _FOLDER)
            os.close(self._root_fd)
            self._root_fd = found

    def read_bytes(self, path: str) -> bytes:
        """A file's content.

        Raises:
            FileError: There is no such file, it is none to be read, or it is too large.
        """
        with self._open_file(path, _READ) as file:
            size = os.fstat(file).st_size
            if size > self.max_bytes:
                raise FileError(f"{path} has {size:,} bytes; files up to {self.max_bytes:,} can be read")
            parts: list[bytes] = []
            left = self.max_bytes  # it may grow while it is read
            while left > 0 and (part := os.read(file, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)

    def read_text(self, path: str) -> str:
        """A file's content as text.

        Raises:
            FileError: See `read_bytes`; or the file is not text in UTF-8.
        """
        content = self.read_bytes(path)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise FileError(f"{path} is a binary file of {len(content):,} bytes, not text in UTF-8")
        return text

    def write_bytes(self, path: str, content: bytes) -> None:
        """Writes a file, and makes the folders on the way to it.

        Raises:
            FileError: The path can't be written to, or the content is too large.
        """
        if len(content) > self.max_bytes:
            raise FileError(
                f"{len(content):,} bytes are too many; files up to {self.max_bytes:,} can be written"
            )
        with self._open_file(path, _WRITE, make_folders=True) as file:
            os.ftruncate(file, 0)
            unwritten = memoryview(content)
            while unwritten:
                unwritten = unwritten[os.write(file, unwritten) :]

    def entries(self, path: str = ".", limit: int = 1000) -> Iterator[Entry]:
        """What is below a folder, by name, each folder before what is in it; links are not followed.

        Args:
            path: The folder.
            limit: Of a folder that has more entries, only so many are looked at.

        Raises:
            FileError: There is no such folder.
        """
        parts = self._parts(path)
        with self._walk_to_folder(path, parts) as folder:
            yield from _list_below(folder, "/".join(parts), limit, _MAX_DEPTH)

    def _parts(self, path: str) -> list[str]:
        """The components of a path. No component is a link, so `..` can be resolved without looking."""
        relative = path
        if path.startswith("/"):
            relative = os.path.relpath(os.path.normpath(path), self.root)
        normal = os.path.normpath(relative)
        if "\0" in path or normal == ".." or normal.startswith("../"):
            raise FileError(f"{path} is outside the workspace, {self.root}")
        return [] if normal == "." else normal.split("/")

    @contextmanager
    def _walk_to_folder(self, path: str, parts: list[str], make_folders: bool = False) -> Generator[int]:
        """The folder that the components lead to."""
        with _describe_error(path, path):
            folder = os.dup(self._root_fd)
        try:
            for part in parts:
                with _describe_error(path, part):
                    below = _open_folder(part, folder, make_folders)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _open_file(self, path: str, flags: int, make_folders: bool = False) -> Generator[int]:
        """The regular file at a path."""
        parts = self._parts(path)
        if not parts:
            raise FileError(f"{path} is a folder")
        with self._walk_to_folder(path, parts[:-1], make_folders) as folder:
            with _describe_error(path, parts[-1]):
                file = os.open(parts[-1], flags, 0o644, dir_fd=folder)
            try:
                with _describe_error(path, parts[-1]):
                    mode = os.fstat(file).st_mode
                if stat.S_ISDIR(mode):
                    raise FileError(f"{path} is a folder")
                if not stat.S_ISREG(mode):
                    raise FileError(f"{path} is no regular file")
                with _describe_error(path, parts[-1]):
                    yield file
            finally:
                os.close(file)


def _open_folder(name: str, folder: int, make: bool = False) -> int:
    try:
        opened = os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        opened = os.open(name, _FOLDER, dir_fd=folder)
    try:
        # gVisor's kernel of 2022 follows a link to a folder all the same.
        if not os.path.samestat(os.fstat(opened), os.stat(name, dir_fd=folder, follow_symlinks=False)):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except BaseException:  # such as a folder that was renamed since: each try would cost a descriptor
        os.close(opened)
        raise
    return opened


@contextmanager
def _describe_error(path: str, part: str) -> Generator[None]:
    """Words the system's errors at one component of a path."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                what = f"{path} does not exist"
            case errno.ELOOP:
                what = f"{path} can't be opened: {part} is a symbolic link, which this tool does not follow"
            case errno.ENOTDIR:
                what = f"{path} can't be reached: {part} is not a folder, or it is a symbolic link"
            case errno.EISDIR:
                what = f"{path} is a folder"
            case errno.ENXIO:
                what = f"{path} is no regular file"
            case errno.ENOSPC | errno.EDQUOT:
                what = f"{path} can't be written: the disk is full"
            case errno.EFBIG:
                what = f"{path} can't be written: it would be larger than a file may be here"
            case _:
                what = f"{path}: {os.strerror(error.errno or 0)}"
        raise FileError(what) from error


def _list_below(folder: int, prefix: str, limit: int, levels: int) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as scan:
            found = sorted(entry.name for entry in islice(scan, limit))
    except OSError:
        return  # there may be no descriptors left
    for name in found:
        path = f"{prefix}/{name}" if prefix else name
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            continue  # gone by now
        if stat.S_ISDIR(status.st_mode):
            yield Entry(path, "folder", 0)
            if levels == 0:
                continue
            try:
                below = _open_folder(name, folder)
            except OSError:
                continue
            try:
                yield from _list_below(below, path, limit, levels - 1)
            finally:
                os.close(below)
        elif stat.S_ISREG(status.st_mode):
            yield Entry(path, "file", status.st_size)
        else:
            yield Entry(path, "link" if stat.S_ISLNK(status.st_mode) else "other", 0)
