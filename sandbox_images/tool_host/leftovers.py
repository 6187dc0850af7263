"""What a session can leave that no process of it holds: System V IPC, message queues, files in `/dev/shm`."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress

from sandbox_images.tool_host.scratch import remove

_FOLDERS = ("/dev/shm", "/dev/mqueue")
_IPC_RMID = 0
_libc = ctypes.CDLL(None, use_errno=True)
_OBJECTS = {"shm": (7, 9), "msg": (7, 9), "sem": (4, 6)}
"""Columns of owner and creator in the lists of `/proc/sysvipc`."""


def has_left_anything(user: int) -> bool:
    """Whether a user has left something behind."""
    return any(True for _ in _objects(user)) or any(True for _ in _files(user))


def remove_left_behind(user: int) -> None:
    """Removes what a user has left behind. This process must be that user, or act as it."""
    for kind, number in _objects(user):
        if kind == "shm":
            _libc.shmctl(number, _IPC_RMID, None)
        elif kind == "msg":
            _libc.msgctl(number, _IPC_RMID, None)
        else:
            _libc.semctl(number, 0, _IPC_RMID)
    for path, is_folder in list(_files(user)):
        with suppress(OSError):
            remove(path) if is_folder else os.unlink(path)


def _objects(user: int) -> Iterator[tuple[str, int]]:
    for kind, columns in _OBJECTS.items():
        try:
            with open(f"/proc/sysvipc/{kind}", encoding="ascii") as listing:
                lines = listing.read().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if any(int(fields[column]) == user for column in columns):
                yield kind, int(fields[1])


def _files(user: int) -> Iterator[tuple[str, bool]]:
    for folder in _FOLDERS:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == user:
                        yield entry.path, entry.is_dir(follow_symlinks=False)
