"""What a run folder holds besides its journal: shards, base states, and the manifest that names them."""

import json
import logging
import re
import time
from pathlib import Path

from cluster.dataset.durable import RunFolderError, stray_files
from cluster.dataset.journal import Journal, read_segment, segment_writer
from cluster.dataset.manifest import Manifest, write_manifest
from cluster.dataset.shards import compact, rewrite_without, uncompacted, write_state
from cluster.dataset.take_up import COPIED

_log = logging.getLogger(__name__)

TABLES = ("episodes", "steps", "states")
"""Folders of a run folder that hold Parquet files."""


class ShardStore:
    """Writes them, one method at a time: all are called on one thread.

    Attributes:
        manifest: The manifest as it is on disk.
        stuck: Segments that could not be made into shards, and why.

    Args:
        run_dir: The run folder.
        manifest: Its manifest.
        journal: Its journal, whose full segments become shards.
    """

    def __init__(self, run_dir: Path, manifest: Manifest, journal: Journal) -> None:
        self.manifest = manifest
        self.stuck: dict[Path, RunFolderError] = {}
        self._run_dir = run_dir
        self._journal = journal
        self._named_after = manifest.writer if (run_dir / COPIED).exists() else None
        self._began = time.monotonic() - (manifest.wall_seconds or 0.0)

    def recover(self) -> None:
        """Remove what a killed process left half-written, and finish what it left half-done."""
        for folder in (self._run_dir, *(self._run_dir / table for table in TABLES)):
            for file in stray_files(folder):
                file.unlink()
        done = {shard.segment for shard in self.manifest.shards}
        for segment in self._journal.closed_segments():
            if segment.stem in done:
                self._journal.remove(segment)
        self.compact_closed()
        self._remove_unnamed()
        states = [f"states/{file.name}" for file in sorted((self._run_dir / "states").glob("*.parquet"))]
        if states != self.manifest.states:
            self.update_manifest(states=states)

    def _remove_unnamed(self) -> None:
        """Remove shards' files that the manifest does not name: they were replaced, or never finished."""
        shards = self.manifest.shards
        named = {file for shard in shards for file in (shard.episodes_file, shard.steps_file)}
        for table in ("episodes", "steps"):
            for file in (self._run_dir / table).glob("*.parquet"):
                if f"{table}/{file.name}" not in named and not self._is_waiting(file):
                    file.unlink()

    def _is_waiting(self, file: Path) -> bool:
        return any(
            file.stem == segment.stem or file.stem.startswith(f"{segment.stem}-0-")
            for segment in self._journal.closed_segments()
        )

    def compact_all(self) -> None:
        """Compacts what has failed before, too, for as long as what succeeds makes room for the rest."""
        left = None
        while (waiting := len(self._journal.closed_segments())) and waiting != left:
            left = waiting
            self.stuck.clear()  # on this thread: a compaction that is under way may add to them
            self.compact_closed()

    def compact_closed(self) -> None:
        """Turns each segment that is full into a shard; what cannot be stays in the journal."""
        for segment in self._journal.closed_segments():
            if segment in self.stuck:
                continue
            try:
                if self._named_after in (None, segment_writer(segment.stem)):
                    shard = compact(segment, self._run_dir)
                else:
                    shard = compact(segment, self._run_dir, self._named_after)
                others = [other for other in self.manifest.shards if other.segment != shard.segment]
                self.update_manifest(shards=[*others, shard], wall_seconds=self._seconds())
                self._journal.remove(segment)
            except OSError as error:
                reason = f"{segment} cannot be made into a shard: {error.strerror or error}"
                self.stuck[segment] = RunFolderError(f"{reason}; its episodes are safe in it")
                self.stuck[segment].__cause__ = error
                _log.warning(reason)
            except RunFolderError as error:
                self.stuck[segment] = error
                _log.warning("a segment stays in the journal: %s", error)

    def forget(self, episode_ids: set[str]) -> None:
        """See `Dataset.forget`."""
        for segment in uncompacted(self._journal.closed_segments(), self.manifest):
            ids = {json.loads(record)["episode_id"] for record in read_segment(segment)}
            if ids & episode_ids:
                raise self.stuck.get(segment) or RunFolderError(f"{segment} has not become a shard yet")
        shards = [
            rewrite_without(shard, self._run_dir, episode_ids, self._named_after)
            for shard in self.manifest.shards
        ]
        replaced = {
            file: (self._run_dir / file).stat().st_size
            for old, new in zip(self.manifest.shards, shards, strict=True)
            if old != new
            for file in (old.episodes_file, old.steps_file)
        }
        self.update_manifest(shards=shards, replaced={**self.manifest.replaced, **replaced})
        self._remove_unnamed()

    def write_states(self, states: dict[str, str]) -> None:
        """Adds base states (JSON text by id) that are not there already."""
        known = {Path(file).stem for file in self.manifest.states}
        new = {state_id: state for state_id, state in states.items() if state_id not in known}
        for state_id, state in new.items():
            if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", state_id):
                raise ValueError(f"state id {state_id!r} must consist of letters, digits, -, _ and .")
            write_state(self._run_dir, state_id, state)
        if new:
            files = sorted([*self.manifest.states, *(f"states/{state_id}.parquet" for state_id in new)])
            self.update_manifest(states=files)

    def update_manifest(self, **changes: object) -> None:
        """Changes fields of the manifest, on disk and then here."""
        manifest = self.manifest.model_copy(update=changes)
        write_manifest(self._run_dir, manifest)
        self.manifest = manifest

    def _seconds(self) -> float:
        """Seconds that the run has taken, this time and before."""
        return time.monotonic() - self._began
