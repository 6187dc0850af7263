"""The manifest: which shards a run's dataset consists of."""

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
    wall_seconds: float | None = None
    """Seconds the run has taken so far, its resumptions together. Null before the first commit."""
    shards: list[Shard] = Field(default_factory=list[Shard])
    """The shards."""
    states: list[str] = Field(default_factory=list[str])
    """Parquet files of base environment states, relative to the run folder."""

    @model_validator(mode="before")
    @classmethod
    def _known_format(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Speak of the format before any field that another format may have or lack."""
        if data.get("format", FORMAT) != FORMAT:
            raise ValueError(
                f"format is {data['format']!r}, and this version of Kumite reads format {FORMAT}"
            )
        return data


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
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ManifestError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from error


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Durably put this manifest in place of the one before."""
    with replacing(manifest_path(run_dir)) as temporary:
        temporary.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
