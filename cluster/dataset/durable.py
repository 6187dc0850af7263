"""Files of a run folder that are either wholly there or not there at all."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError

_LOCK = ".lock"
_MAKING = ".making"


class RunFolderError(ClusterError):
    """A run folder cannot be read or written as it should; the base of what the data layer raises."""


class RunFolderLocked(RunFolderError):
    """Another process is writing this run folder."""


def lock_folder(folder: Path) -> IO[bytes]:
    """Take the folder's write lock, which the kernel gives back however this process ends.

    Returns:
        The lock: closing it gives it back.

    Raises:
        RunFolderLocked: Another process has it.
    """
    while True:
        file = (folder / _LOCK).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise RunFolderLocked(
                f"{folder} is being written by another process; wait for that run to end, or end it"
            ) from error
        if _is_at(file, folder / _LOCK):
            return file
        file.close()  # the folder was replaced, or its lock removed, after the file was opened


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_vacant(folder: Path) -> bool:
    """Whether a new run may take the folder.

    It is not there, is empty, or holds what a process was killed in the middle of making (`begin_folder`).
    """
    if not folder.exists():
        return True
    if not folder.is_dir() or (folder / "manifest.json").exists():
        return False
    names = {path.name for path in folder.iterdir()}
    return _MAKING in names or not names - {_LOCK}


def begin_folder(folder: Path) -> None:
    """Mark a vacant folder as one that is being made into a run's, until it has a manifest."""
    (folder / _MAKING).touch()
    fsync_folder(folder)


def end_folder(folder: Path) -> None:
    """Take the mark away again."""
    (folder / _MAKING).unlink(missing_ok=True)


def clear_vacant(folder: Path, *, remove: bool) -> None:
    """Take mark and lock out of a folder that holds nothing else; another one stays as it is.

    Args:
        folder: The folder.
        remove: Whether it then goes itself.
    """
    (folder / _MAKING).unlink(missing_ok=True)
    if folder.exists() and is_vacant(folder):
        (folder / _LOCK).unlink(missing_ok=True)
        if remove:
            with suppress(OSError):  # something has been put into it
                folder.rmdir()


def fsync_file(path: Path) -> None:
    """Make what is in a file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make the creation, renaming and removal of the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming_place(folder: Path) -> Generator[None]:
    """Says in the user's words what a disk refuses inside the block: it is full, or takes no writes.

    Raises:
        RunFolderError: It refuses something.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"cannot write in {folder}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary path to write; when the block ends well, it durably takes the place of `path`.

    A block that raises leaves `path` as it was and no temporary file. A process that is killed leaves one
    that `stray_files` finds.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def stray_files(folder: Path) -> list[Path]:
    """Temporary files that a killed process left in this folder."""
    return sorted(folder.glob(".*.tmp"))
