"""Temporary folders of vLLM's processes, which leave sockets and files behind when they are ended.

One for each deployment on a local Ray cluster, named by the process that the cluster ends with and by the
application, so that it can be removed by whoever ends either, and by anyone once that process is gone.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from workers.process_ids import read_start_time

_PREFIX = "kumite-vllm-"
_SOCKET, _LONGEST = 37, 107
"""Bytes of a socket's name with its slash, and of a whole path that a socket may have."""


def make_folder(application: str, owner: int) -> Path:
    """Makes the temporary folder of an application.

    Args:
        application: Its name.
        owner: The process that its Ray cluster ends with.
    """
    folder = _temporary_root() / f"{_PREFIX}{owner}-{read_start_time(owner)}-{_short_digest(application)}"
    shutil.rmtree(folder, ignore_errors=True)  # of a deployment that did not come up
    folder.mkdir(mode=0o700)
    return folder


def remove_folder(application: str) -> None:
    """Removes an application's folder, if it has one; safe to call twice."""
    for folder in _temporary_root().glob(f"{_PREFIX}*-{_short_digest(application)}"):
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale_folders() -> None:
    """Removes folders whose Ray cluster has ended, however it did."""
    for folder in _temporary_root().glob(f"{_PREFIX}*-*-*"):
        owner, since, _ = folder.name.removeprefix(_PREFIX).split("-", 2)
        if owner.isdigit() and read_start_time(int(owner)) != since:
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_root() -> Path:
    """The folder of temporary files, or `/tmp` if a socket's path would be too long there."""
    root = tempfile.gettempdir()
    longest = len(f"{root}/{_PREFIX}{'9' * 7}-{'9' * 12}-{_short_digest('')}") + _SOCKET
    return Path(root if longest <= _LONGEST else "/tmp")


def _short_digest(application: str) -> str:
    return hashlib.blake2s(f"{os.getuid()} {application}".encode(), digest_size=4).hexdigest()
