"""Whole episodes of a run, steps included, read back from its files."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.dataset.arrow import pq
from cluster.dataset.journal import read_segment
from cluster.dataset.manifest import Shard
from cluster.dataset.schemas import STEP_KEYS
from cluster.dataset.shards import read_run, reading
from workers.records import EpisodeRecord


def iterate_records(run_dir: Path) -> Iterator[EpisodeRecord]:
    """Every episode of a run, from its shards and its journal; memory is that of one shard.

    Raises:
        ManifestError: The folder holds no run, or one of another format.
        JournalCorrupt: The journal is damaged.
        ShardCorrupt: A shard is.
    """

    def of_segment(segment: Path, torn_tail: bool) -> Iterator[EpisodeRecord]:
        for line in read_segment(segment, torn_tail=torn_tail):
            yield EpisodeRecord.model_validate_json(line)

    yield from read_run(run_dir, lambda shard: read_shard_records(run_dir, shard), of_segment)


def read_shard_records(run_dir: Path, shard: Shard) -> Iterator[EpisodeRecord]:
    """The episodes of one shard.

    Raises:
        ShardCorrupt: A file of it cannot be read.
    """
    steps: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(run_dir / shard.steps_file):
        episode_id = row["episode_id"]
        for key in STEP_KEYS:
            del row[key]
        steps[episode_id].append(row)
    for row in _rows(run_dir / shard.episodes_file):
        own = sorted(steps[row["episode_id"]], key=lambda step: step["step_index"])
        yield EpisodeRecord.model_validate({**row, "steps": own})


def _rows(file: Path) -> list[dict[str, Any]]:
    with reading(file):
        return pq.read_table(file).to_pylist()
