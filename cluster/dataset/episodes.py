"""Whole episodes of a run, steps included, read back from its files."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.dataset.arrow import pq
from cluster.dataset.journal import read_segment
from cluster.dataset.manifest import Shard
from cluster.dataset.schemas import STEP_KEYS
from cluster.dataset.shards import iterate_episodes, naming_file, read_run
from cluster.errors import ConfigError
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


def _rows(file: Path, only: list[tuple[str, str, str]] | None = None) -> list[dict[str, Any]]:
    with naming_file(file):
        return pq.read_table(file, filters=only).to_pylist()


def find_record(run_dir: Path, name: str) -> EpisodeRecord:
    """The episode of this id, of an id that begins so, or the first sample of this task.

    A task may also be named by the end of its id, after a slash, if that is the end of one task's id only.

    Raises:
        ConfigError: There is none, or there are several.
        ManifestError: The folder holds no run, or one of another format.
        JournalCorrupt: The journal is damaged.
        ShardCorrupt: A shard is.
    """
    ids: list[str] = []
    named: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for table in iterate_episodes(run_dir, ("episode_id", "task_id", "sample_index")):
        columns = (table[column].to_pylist() for column in ("episode_id", "task_id", "sample_index"))
        for episode_id, task, sample in zip(*columns, strict=True):
            if episode_id.startswith(name):
                ids.append(episode_id)
            elif task == name or task.endswith(f"/{name}"):
                named[task].append((sample, episode_id))
    tasks = [name] if name in named else list(named)
    ids += [min(named[task])[1] for task in tasks]
    if len(ids) != 1:
        those = f"{len(ids)} episodes: {', '.join(ids[:5])}{', …' if len(ids) > 5 else ''}" if ids else "none"
        raise ConfigError(
            f"EPISODE_ID: {name!r} is the id, the beginning of the id, or the task of {those}; "
            f"`kumite show {run_dir} --where 'status != null'` lists all of them"
        )
    for record in _records_of(run_dir, ids[0]):
        return record
    raise ConfigError(f"EPISODE_ID: the episode {ids[0]} has just been taken out of {run_dir}")


def _records_of(run_dir: Path, episode_id: str) -> Iterator[EpisodeRecord]:
    """The record of one episode; of shards only its rows are read."""

    def of_shard(shard: Shard) -> Iterator[EpisodeRecord]:
        only = [("episode_id", "=", episode_id)]
        rows = _rows(run_dir / shard.episodes_file, only)
        if not rows:
            return
        steps = sorted(_rows(run_dir / shard.steps_file, only), key=lambda step: step["step_index"])
        own = [{name: value for name, value in step.items() if name not in STEP_KEYS} for step in steps]
        yield from (EpisodeRecord.model_validate({**row, "steps": own}) for row in rows)

    def of_segment(segment: Path, torn_tail: bool) -> Iterator[EpisodeRecord]:
        for line in read_segment(segment, torn_tail=torn_tail):
            if episode_id.encode() in line:
                record = EpisodeRecord.model_validate_json(line)
                if record.episode_id == episode_id:
                    yield record

    yield from read_run(run_dir, of_shard, of_segment)
