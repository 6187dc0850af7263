"""A process that takes a run up, which is on record before the process writes anything else."""

from pathlib import Path

from cluster.dataset.journal import list_segments
from cluster.dataset.manifest import Manifest, write_manifest
from cluster.dataset.reserve import Reserve
from cluster.dataset.shards import belongs_to_run

COPIED = ".copied"
"""A file of a run folder that is copied to a URI: see `cluster.dataset.remote`."""


def take_up(run_dir: Path, manifest: Manifest, writer: str) -> Manifest:
    """Put on record, before anything else is written, that a process has taken the run up.

    Args:
        run_dir: The run folder, locked.
        manifest: Its manifest, or that of a new run.
        writer: The process's id.

    Returns:
        The manifest as it is now.
    """
    Reserve(run_dir).release()  # one that a killed process left: room for what follows
    found = [
        segment for segment in list_segments(run_dir / "journal") if belongs_to_run(segment.stem, manifest)
    ]
    manifest = manifest.taken_up(writer, {segment.stem: segment.stat().st_size for segment in found})
    write_manifest(run_dir, manifest)
    return manifest
