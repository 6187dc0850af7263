"""Failed episodes by their cause: like failures count as one, whatever ids and numbers they name."""

import re
from typing import Any

from workers.records import FailureKind, Record, Stage

_IDS = re.compile(
    r"0x[0-9a-fA-F]+"
    r"|\b(?=[0-9a-fA-F-]*[0-9])[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\b"
    r"|\b(?=[0-9a-fA-F]*[0-9])[0-9a-fA-F]{8,}\b"
    r"|\b(?:req|call|chatcmpl|resp|msg|run|org|id)[-_][A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]*"
)
_NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*")
_MAX_MESSAGE_LENGTH = 300
_MAX_GROUPS = 1000
"""Causes that are told apart; all others of a stage count as one, so that memory stays bounded."""
_STATUS = re.compile(r"\b(?:status|code|error|http)\D{0,10}[1-5]\d\d\b", re.IGNORECASE)


class FailureGroup(Record):
    """Failed episodes of one cause."""

    stage: Stage
    """Where they failed."""
    kind: FailureKind
    """Whose failure it is."""
    type: str
    """Class of the error."""
    message: str
    """The first line of what it said in one of these episodes. Messages that differ in numbers and ids only
    count as the same."""
    count: int
    """How many episodes."""
    episode_id: str
    """One of them."""
    traceback: str | None = None
    """Where that one's error was raised, where it was an author's own code."""


def first_line(message: str) -> str:
    """Returns the first line of a message that is not empty."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return line if len(line) <= _MAX_MESSAGE_LENGTH else f"{line[: _MAX_MESSAGE_LENGTH - 1]}…"


def normalise_message(message: str) -> str:
    """Replaces ids and numbers in a message, so that messages alike are equal; HTTP statuses stay."""
    line = first_line(message)
    statuses = "".join(re.findall(r"[1-5]\d\d", " ".join(_STATUS.findall(line))))
    return f"{_NUMBERS.sub('#', _IDS.sub('#', line))} {statuses}".rstrip()


class FailureGroups:
    """Counts failed episodes by cause, as they come."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], FailureGroup] = {}

    def add(self, episode_id: str, error: dict[str, Any]) -> None:
        """Counts one in.

        Args:
            episode_id: The episode.
            error: Its record's `error`.
        """
        key = (error["stage"], error["type"], normalise_message(error["message"]))
        if key not in self._groups and len(self._groups) >= _MAX_GROUPS:
            key = (error["stage"], "", "")
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = FailureGroup(
                stage=error["stage"],
                kind=error["kind"],
                type=key[1] or "others",
                message=first_line(error["message"]) if key[1] else "causes of all kinds",
                count=1,
                episode_id=episode_id,
                traceback=error.get("traceback"),
            )
        else:
            group.count += 1

    def groups(self) -> list[FailureGroup]:
        """Returns the causes of failures, the most frequent first."""
        return sorted(self._groups.values(), key=lambda group: -group.count)
