"""The manifest: which shards a run's dataset consists of."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from cluster.dataset.durable import RunFolderError, replacing
from workers.records import Record

FORMAT = 1
"""Version of the layout of a run folder that this code writes and reads."""


class ManifestError(RunFolderError):
    """The manifest cannot be read, or is of another run."""


class Shard(Record):
    """The dataset's part that was made of one journal segment."""

    segment: str
    """The segment's number, as in its name."""
    episodes_file: str
    """Parquet file of the episodes, relative to the run folder."""
    steps_file: str
    """Parquet file of their steps, relative to the run folder."""
    episodes: int
    """Rows of the episodes file."""
    steps: int
    """Rows of the steps file."""
    bytes: int | None = None
    """Size of the segment that it was made of. Null in shards of before this was noted."""
    episodes_sha256: str | None = None
    """SHA-256 of the episodes file. Null in a run that was written before there was one."""
    steps_sha256: str | None = None
    """SHA-256 of the steps file."""


class LoopPlace(Record):
    """How far a trainer's loop has come, for it to be taken up again."""

    iteration: int = 0
    """The iteration that was begun last, from 1."""
    sampled: int = 0
    """Samples of a task that the iterations so far have counted; the next begins with this `sample_index`."""
    next_task: dict[str, int] = Field(default_factory=dict[str, int])
    """By split: the place, in the order of its tasks, of the one that comes next."""


class TasksDigest(Record):
    """What tells whether a split's tasks are still those that a run began with."""

    tasks: int
    """How many."""
    content: str
    """Digest of their ids, prompts and answers, whatever their order."""
    order: str
    """Digest of the same in their order."""
    info: str | None = None
    """Digest of their ids and of `info`, whatever their order. Null where this was not noted."""


class Manifest(Record):
    """What `manifest.json` holds."""

    format: int = FORMAT
    """Version of the run folder's layout."""
    run_id: str
    """The run."""
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    """When the run was started."""
    planned: int | None = None
    """Episodes that the run is to have in the end. Null while that is not known."""
    cancelled: int = 0
    """Episodes that are not there since their group had enough without them (`keep`), or since a trainer's
    loop broke their iteration off."""
    loop: LoopPlace | None = None
    """Of a run that a trainer's loop plays: how far it has come. Null for other runs."""
    tasks: dict[str, TasksDigest] = Field(default_factory=dict[str, TasksDigest])
    """By split: the tasks that the run plays. A resumption that finds others is refused. Empty in a run that
    was begun before this was noted."""
    shuffled_by: str | None = None
    """What seeded the order of the tasks (`shuffle`) where the config has no `seed`. Null: the run's id."""
    rescored_from: str | None = None
    """The run whose episodes these are, scored again (`kumite rescore`). Null: they were played."""
    wall_seconds: float | None = None
    """Seconds the run has taken so far, its resumptions together. Null before the first commit."""
    shards: list[Shard] = Field(default_factory=list[Shard])
    """The shards."""
    states: list[str] = Field(default_factory=list[str])
    """Parquet files of base environment states, relative to the run folder."""
    take_ups: int = 0
    """How often the run was taken up: its beginning, and every resumption. 0 in runs of before this was
    counted."""
    writer: str | None = None
    """Id of the process that took the run up last. Only it writes."""
    writers: list[str] = Field(default_factory=list[str])
    """Ids of all that took it up, each after it had seen what the one before had written."""
    taken_over: dict[str, int] | None = None
    """Journal segments of earlier writers that are part of the run, with their sizes in bytes: what an
    earlier writer adds later is not. Null: the process has not looked yet, and `claimed` says which are."""
    claimed: dict[str, int] | None = None
    """While `taken_over` is null: what it was in the manifest before. The segments of `claimed_writers` are
    part of the run as well, whole. Null: all that those of `writers` have written."""
    claimed_writers: list[str] = Field(default_factory=list[str])
    """Ids of the writers after those of `claimed`."""
    replaced: dict[str, int] = Field(default_factory=dict[str, int])
    """Files that were part of the run once, or whose episodes are in it now, with their sizes then; they may
    go from a copy."""

    def taken_up(self, writer: str, segments: Mapping[str, int] | None) -> "Manifest":
        """The manifest after a process has taken the run up.

        Args:
            writer: Id of the process, of `new_writer`.
            segments: Sizes of the journal's segments that the process has found, by name. None: it has not
                looked yet.
        """
        changes: dict[str, object] = {"taken_over": None, "claimed": None, "claimed_writers": []}
        if segments is not None:
            changes["taken_over"] = dict(segments)
        elif self.writer is not None:
            changes["claimed"] = self.claimed if self.taken_over is None else self.taken_over
            changes["claimed_writers"] = [*self.claimed_writers, self.writer]
        if writer != self.writer:
            changes |= {
                "take_ups": self.take_ups + 1,
                "writer": writer,
                "writers": [*self.writers, writer],
            }
        return self.model_copy(update=changes)

    def as_claim(self) -> "Manifest":
        """The same manifest, of a process that has not looked yet what there is."""
        if self.taken_over is None:
            return self
        return self.model_copy(update={"taken_over": None, "claimed": self.taken_over})

    def has_segment(self, segment: str, writer: str) -> bool:
        """Whether a segment of the journal that this writer has written is part of the run."""
        if writer == self.writer or writer in self.claimed_writers:
            return True
        if self.taken_over is None and self.claimed is None:
            return writer in self.writers
        return segment in self.segment_sizes()

    def segment_sizes(self) -> dict[str, int]:
        """Segments of earlier writers of which no more than so many bytes are part of the run."""
        return (self.claimed if self.taken_over is None else self.taken_over) or {}

    @model_validator(mode="before")
    @classmethod
    def _known_format(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Speak of the format before any field that another format may have or lack."""
        if data.get("format", FORMAT) != FORMAT:
            raise ValueError(
                f"format is {data['format']!r}, and this version of Kumite reads format {FORMAT}"
            )
        return data


def new_writer() -> str:
    """An id for a process that takes a run up."""
    return f"w{secrets.token_hex(4)}"


def manifest_path(run_dir: Path) -> Path:
    return run_dir / "manifest.json"


def load_manifest(run_dir: Path) -> Manifest:
    """Read a run folder's manifest.

    Raises:
        ManifestError: There is none, it is damaged, or it is of another format version.
    """
    path = manifest_path(run_dir)
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise ManifestError(f"{run_dir} holds no run: there is no manifest.json in it") from error
    return parse_manifest(text, path)


def parse_manifest(text: bytes, path: Path | str) -> Manifest:
    """Read a manifest's text.

    Args:
        text: The JSON text.
        path: Where it was found, for the error.

    Raises:
        ManifestError: It is damaged, or of another format version.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ManifestError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from error


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Durably put this manifest in place of the one before."""
    with replacing(manifest_path(run_dir)) as temporary:
        temporary.write_bytes(manifest_text(manifest))


def manifest_text(manifest: Manifest) -> bytes:
    """The manifest as JSON text."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()
