"""What the tests of the cluster side share."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of a size, `128k`, `2m`."""
    folder = tmp_path / "disk"

    def made(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, timeout=30).returncode:
            pytest.skip("mounting a file system takes root")
        return folder

    yield made
    if folder.is_mount():
        # Lazily: a reader of what was written there may not have been collected yet.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)


@pytest.fixture
def small_disk(disk: Callable[[str], Path]) -> Path:
    """A file system of 128 KiB."""
    return disk("128k")
