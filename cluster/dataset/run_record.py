"""`run.json`: what a run noted of itself while it went on, which a later check of its dataset needs."""

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from cluster.dataset.durable import naming_place, replacing
from workers.records import Record

NAME = "run.json"
"""The file's name in a run's folder."""


class RunSession(Record):
    """One time that the run was at work: it has several where it was resumed."""

    begun: AwareDatetime
    """When it began, in the driver's time zone; a chat template may write the date."""
    ended: AwareDatetime | None = None
    """When it ended. Null while it is at work, and where it was killed."""
    first_version: int | None = None
    """Version of the policy's weights when it began. Null where that is not known."""
    last_version: int | None = None
    """Version of the policy's weights when it ended."""
    image_id: str | None = None
    """Docker's id of the image that `sandbox.image` named. Null where it named none, or on a cluster."""


class RunRecord(Record):
    """What `run.json` holds."""

    model: str
    """The policy's name in requests and records."""
    chat_template: str | None = None
    """The Jinja text by which messages became prompts. Null where it was not on the driver's machine."""
    chat_template_sha256: str | None = None
    """SHA-256 of that text."""
    tokenizer_sha256: str | None = None
    """SHA-256 of the model's tokenizer file. Null where it was not on the driver's machine."""
    weights_digest: str | None = None
    """Digest of the model's weight files: their names and sizes, and samples of what they hold. Null where
    they were not on the driver's machine, and in a run of a release that did not note it."""
    environment_sampling: dict[str, Any] = Field(default_factory=dict[str, Any])
    """The environment's own sampling arguments, which those of the config win over."""
    tool_parser: str | None = None
    """Name of vLLM's parser of tool calls. Null: none, or not known."""
    reasoning_parser: str | None = None
    """Name of vLLM's parser of reasoning. Null: none, or not known."""
    sessions: list[RunSession] = Field(default_factory=list[RunSession])
    """The times that it was at work, the first one first."""


def load_run_record(folder: Path) -> RunRecord | None:
    """What a run noted of itself; None of a run that was written before there was such a file.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return RunRecord.model_validate_json((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None


def begin_session(
    folder: Path, description: RunRecord, version: int | None, image_id: str | None = None
) -> None:
    """Notes that a run is at work; the template and the parsers are those of its first time.

    Args:
        folder: The run's folder.
        description: A record of it without sessions, for the first time.
        version: Version of the policy's weights.
        image_id: The id of the image that `sandbox.image` names, where that is known.

    Raises:
        RunFolderError: It cannot be written.
    """
    record = _readable(folder) or description.model_copy(deep=True)
    begun = datetime.now().astimezone()
    record.sessions.append(RunSession(begun=begun, first_version=version, image_id=image_id))
    _write(folder, record)


def end_session(folder: Path, version: int | None) -> None:
    """Notes that a run has come to an end, or has been broken off in order.

    Raises:
        RunFolderError: It cannot be written.
    """
    record = _readable(folder)
    if record is not None and record.sessions:
        last = record.sessions[-1]
        last.ended, last.last_version = datetime.now().astimezone(), version
        _write(folder, record)


def _readable(folder: Path) -> RunRecord | None:
    try:
        return load_run_record(folder)
    except ValidationError:
        return None


def _write(folder: Path, record: RunRecord) -> None:
    with naming_place(folder), replacing(folder / NAME) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
