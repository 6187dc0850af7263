"""Disk space that a run folder holds, so that what has finished can be committed when the disk is full."""

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)


class Reserve:
    """The file `.reserve` of a run folder.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._file = run_dir / ".reserve"

    def hold(self, size: int) -> None:
        """Take this many bytes; where there are fewer, none, and the log says so."""
        try:
            with self._file.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            self.release()
            _log.warning("%s has no %d MiB to spare: %s", self._run_dir, size // 2**20, error.strerror)

    def release(self) -> bool:
        """Give the space back; whether any was held."""
        held = self._file.exists()
        self._file.unlink(missing_ok=True)
        return held
