"""What libraries say on the terminal while an environment is loaded: bars and warnings go to the log."""

import io
import logging
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO

from workers.logs import LOGGERS

_log = logging.getLogger(__name__)


class _LogWriter(io.TextIOBase):
    """Logs what is written to it, line by line; of a bar that is drawn over and over, nothing.

    In all else it is the stream in whose place it stands. A log handler may hold it for good, and be that of
    the root logger, to which what is logged here comes, too: such a line is not logged once more.

    Args:
        stream: That stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        self._logging = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def write(self, text: str, /) -> int:
        if getattr(self._logging, "now", False):
            return len(text)
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
            self._logging.now = True
            try:
                _log.info("said while the environment was loaded: %s", line.rstrip())
            finally:
                self._logging.now = False


@contextmanager
def log_library_output() -> Generator[None]:
    """Sends what libraries write to stderr to the log, and has the datasets library draw no bars."""
    writer = _LogWriter(sys.stderr)
    try:
        with redirect_stderr(writer), _no_progress_bars():
            yield
    finally:
        writer.finish()
        _keep_own_logs(writer)


def _keep_own_logs(writer: _LogWriter) -> None:
    """Undoes what an environment's own set-up of Python's logging does to ours.

    `logging.config.dictConfig` disables all loggers that were there before, unless it is told not to; a root
    handler that was given stderr would have each line of ours logged twice.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] in LOGGERS and isinstance(logger, logging.Logger):
            logger.disabled = False
    for handler in logging.root.handlers:
        if getattr(handler, "stream", None) is writer:
            handler.addFilter(_is_not_ours)


def _is_not_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] not in LOGGERS


@contextmanager
def _no_progress_bars() -> Generator[None]:
    """What is imported later draws its bars on the stream in stderr's place, which leaves them out, too."""
    if "datasets" not in sys.modules:  # importing it takes half a second, and many tasksets do without
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
