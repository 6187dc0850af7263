"""Places that are named by a URI, and the file systems that they are on."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as arrow_fs
from fsspec.implementations.arrow import ArrowFSWrapper
from fsspec.implementations.local import LocalFileSystem

from cluster.dataset.durable import replacing

_BY_ARROW = ("s3", "gs", "gcs")
"""Schemes that Arrow brings a file system for; fsspec wants a package more for each."""
_OF_THIS_MACHINE = ("file", "local")


def is_uri(place: str) -> bool:
    """Whether this names a place by scheme, `s3://…`, and not by a path."""
    return "://" in place


class WholeFiles(LocalFileSystem):
    """Folders that this machine sees, where a file appears as a whole, as it does in a bucket."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """Writes a file under another name, and then puts it in its place."""
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(value)


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
    file_system, path = spec.url_to_fs(uri)
    return (WholeFiles() if scheme in _OF_THIS_MACHINE else file_system), path
