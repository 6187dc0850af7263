"""Logs as lines of JSON that say which run, worker, node and episode they are about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from workers.handed_on import hide_secrets

LOGGERS = ("cluster", "workers")
"""Ours: what others log stays as it is."""

episode: ContextVar[str | None] = ContextVar("kumite_logged_episode", default=None)
"""The episode that the running task plays."""


class JsonLines(logging.Formatter):
    """A line of JSON per record: `time`, `level`, `logger`, `message`, and ids where they are known.

    Args:
        ids: Of the process that logs: `run`, `worker`, `node`.
    """

    def __init__(self, **ids: str) -> None:
        super().__init__()
        self._ids = ids

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        about: str | None = getattr(record, "episode", None) or episode.get()
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            **self._ids,
            **({"episode": about} if about else {}),
            "message": record.getMessage(),
        }
        raised_at: str | None = getattr(record, "traceback", None)
        if raised_at:
            line["traceback"] = raised_at
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return hide_secrets(json.dumps(line, ensure_ascii=False))


class PlainLines(logging.Formatter):
    """What other packages log, as Python writes it where nobody has said how, but for secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the names of secrets in their place."""
        return hide_secrets(super().format(record))


def log_to(handler: logging.Handler, **ids: str) -> None:
    """Has our loggers write to a handler, from level INFO on, as lines of JSON."""
    handler.setFormatter(JsonLines(**ids))
    handler.setLevel(logging.INFO)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)


def stop_logging_to(handler: logging.Handler) -> None:
    """Undoes `log_to`, and closes the handler."""
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(handler)
    handler.close()


class LogFile(logging.FileHandler):
    """A file of log lines. A disk that takes no more of them ends nothing."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Passes over what cannot be written."""


def log_to_stderr(**ids: str) -> None:
    """`log_to` for a worker: Ray keeps what its processes say there in files of its session."""
    log_to(logging.StreamHandler(sys.stderr), **ids)
    if logging.lastResort is not None:  # verifiers logs what a reward function has raised
        logging.lastResort.setFormatter(PlainLines())
    for name in LOGGERS:
        logging.getLogger(name).propagate = False
