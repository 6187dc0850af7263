"""What libraries say on the terminal while an environment is loaded: bars and warnings go to the log."""

import io
import logging
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec

_log = logging.getLogger(__name__)


class _LogWriter(io.TextIOBase):
    """Logs what is written to it, line by line; of a bar that is drawn over and over, nothing."""

    def __init__(self) -> None:
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._log_line(line)
        return len(text)

    def finish(self) -> None:
        """Logs what has no end of line yet."""
        self._log_line(self._line)
        self._line = ""

    def _log_line(self, line: str) -> None:
        if line.strip() and "\r" not in line:
            _log.info("said while the environment was loaded: %s", line.rstrip())


@contextmanager
def log_library_output() -> Generator[None]:
    """Sends what libraries write to stderr to the log, and has the datasets library draw no bars."""
    writer = _LogWriter()
    try:
        with redirect_stderr(writer), _no_progress_bars():
            yield
    finally:
        writer.finish()


@contextmanager
def _no_progress_bars() -> Generator[None]:
    if find_spec("datasets") is None:  # an environment with packages of its own may do without
        yield
        return
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
