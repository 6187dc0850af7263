"""The index of a run: one row of plain columns per episode, without messages, tokens and states."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from cluster.dataset.arrow import Table, pa, pc, pj, pq
from cluster.dataset.journal import list_segments, read_segment
from cluster.dataset.manifest import Manifest, Shard, load_manifest
from cluster.dataset.remote import local_folder
from cluster.dataset.schemas import EPISODES, RECORDS, STEPS
from cluster.dataset.shards import complete_columns, naming_file, parse_records, read_run, uncompacted
from workers.records import EpisodeRecord, Timings

_PLAIN_COLUMNS = (
    "episode_id",
    "task_id",
    "environment",
    "group_id",
    "sample_index",
    "split",
    "suite",
    "user_task",
    "injection_task",
    "attack",
    "status",
    "reward",
    "stop_reason",
    "is_truncated",
    "model",
    "policy_version",
    "last_policy_version",
    "attempt",
    "started_at",
    "worker_id",
)
_STRUCT_COLUMNS = {
    "error": ("stage", "kind", "type", "message"),
    "usage": ("prompt_tokens", "completion_tokens", "cached_tokens"),
    "timings": tuple(Timings.model_fields),
}
_COLUMN_PREFIXES = {"error": "error_", "usage": "", "timings": "seconds_"}
_READ_COLUMNS = [*_PLAIN_COLUMNS, *_STRUCT_COLUMNS, "metrics"]
METRIC = "metric."
"""What the name of a metric's column begins with."""
_REFRESH_INTERVAL = 1.0
"""Seconds for which a run's files are taken to be what they were."""
_THREADS = 8


@dataclass(frozen=True)
class IndexPart:
    """The index of one shard, or of one segment of the journal."""

    rows: Table
    """The index's rows."""
    shard: Shard | None
    """The shard. None: it is a segment."""
    segment: Path | None
    """The segment. None: it is a shard."""
    key: str
    """What tells its content from another's."""


class EpisodeIndex:
    """The episodes of one run, for filtering and sorting; the run may be at work.

    A shard is read once, since it never changes; a segment of the journal anew when it has grown. Per
    episode, it holds a few hundred bytes.

    Args:
        place: The run's folder, or URI.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._folder: Path | None = None
        self._parts: list[IndexPart] = []
        self._kept: dict[str, IndexPart] = {}
        self._table: Table | None = None
        self._looked = 0.0
        self._lock = threading.Lock()
        self.version = 0
        """Counts how often the episodes have been found to be others."""

    @property
    def folder(self) -> Path:
        """The run's folder on this machine, as it was found last."""
        if self._folder is None:
            self._folder = local_folder(self.place)
        return self._folder

    def table(self) -> Table:
        """The index as the run's files are now.

        Raises:
            ClusterError: The run cannot be read.
        """
        with self._lock:
            if self._table is None or time.monotonic() - self._looked > _REFRESH_INTERVAL:
                self._refresh()
            assert self._table is not None
            return self._table

    def beginning(self, count: int) -> tuple[Table, int] | None:
        """The first rows of a run whose index has not been read yet, and how many it has in all.

        So a large run's first page is there before its index. None: the index is there, or the run has
        episodes that are in no shard yet.
        """
        if self._table is not None:
            return None
        segments = list_segments(self.folder / "journal")
        manifest = load_manifest(self.folder)
        if not manifest.shards or uncompacted(segments, manifest):
            return None
        tables: list[Table] = []
        for shard in manifest.shards:
            tables.append(_read_shard(self.folder, shard).rows)
            if sum(table.num_rows for table in tables) >= count:
                break
        return _concatenate_tables(tables), sum(shard.episodes for shard in manifest.shards)

    def manifest(self) -> Manifest:
        """The run's manifest."""
        return load_manifest(self.folder)

    def read_record(self, episode_id: str) -> EpisodeRecord | None:
        """One episode, steps included; None if the run has none of this id."""
        for part in self.parts():
            if pc.index(part.rows["episode_id"], episode_id).as_py() >= 0:
                return self._read_record(part, episode_id)
        return None

    def scan(self, of_part: Callable[["EpisodeIndex", IndexPart], set[str]]) -> set[str]:
        """Goes through all parts, several at once, and joins what is found in each."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return set[str]().union(*threads.map(partial(of_part, self), self.parts()))

    def parts(self) -> list[IndexPart]:
        """The parts of the run, as its files are now."""
        self.table()
        with self._lock:
            return list(self._parts)

    def columns(self, part: IndexPart, names: Sequence[str]) -> Iterator[Table]:
        """Columns of a part's episodes, in tables that fit in memory."""
        if part.shard is not None:
            path = self.folder / part.shard.episodes_file
            with naming_file(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=list(names)):
                    yield complete_columns(pa.Table.from_batches([batch]), names, EPISODES)
        elif part.segment is not None:
            lines = list(read_segment(part.segment, torn_tail=True))
            if lines:
                yield parse_records(lines, pa.schema([EPISODES.field(name) for name in names]))

    def step_columns(self, part: IndexPart, names: Sequence[str]) -> Iterator[Table]:
        """Columns of the steps of a part's episodes, in tables that fit in memory."""
        if part.shard is not None:
            path = self.folder / part.shard.steps_file
            with naming_file(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=list(names)):
                    yield complete_columns(pa.Table.from_batches([batch]), names, STEPS)
        elif part.segment is not None:
            lines = list(read_segment(part.segment, torn_tail=True))
            if lines:
                steps = parse_records(lines, pa.schema([RECORDS.field("steps")]))["steps"].combine_chunks()
                flat = pc.list_flatten(steps)
                yield pa.table({name: pc.struct_field(flat, name) for name in names})

    def _refresh(self) -> None:
        self._folder = folder = local_folder(self.place)
        manifest = load_manifest(folder)
        missing = [shard for shard in manifest.shards if _shard_key(shard) not in self._kept]
        if len(missing) > 1:  # what is read here is found in `_kept` below
            with ThreadPoolExecutor(_THREADS) as threads:
                for part in threads.map(partial(_read_shard, folder), missing):
                    self._kept[part.key] = part

        def of_shard(shard: Shard) -> Iterator[IndexPart]:
            yield self._kept.get(_shard_key(shard)) or _read_shard(folder, shard)

        def of_segment(segment: Path, torn_tail: bool) -> Iterator[IndexPart]:
            stat = segment.stat()
            key = f"{segment.name}:{stat.st_size}:{stat.st_mtime_ns}"
            yield self._kept.get(key) or _read_segment(segment, torn_tail, key)

        parts = list(read_run(folder, of_shard, of_segment))
        keys = [part.key for part in parts]
        if self._table is None or keys != [part.key for part in self._parts]:
            self.version += 1
            self._table = _concatenate_tables([part.rows for part in parts])
        self._parts = parts
        self._kept = {part.key: part for part in parts}
        self._looked = time.monotonic()

    def _read_record(self, part: IndexPart, episode_id: str) -> EpisodeRecord | None:
        if part.segment is not None:
            try:
                wanted = episode_id.encode()
                for line in read_segment(part.segment, torn_tail=True):
                    if wanted in line:
                        record = EpisodeRecord.model_validate_json(line)
                        if record.episode_id == episode_id:
                            return record
            except FileNotFoundError:  # it has become a shard meanwhile
                with self._lock:
                    self._refresh()
                    parts = list(self._parts)
                shards = [one for one in parts if one.shard is not None]
                return next(filter(None, (self._read_record(one, episode_id) for one in shards)), None)
            return None
        assert part.shard is not None
        episodes, steps = (
            _read_episode_rows(self.folder / file, episode_id)
            for file in (part.shard.episodes_file, part.shard.steps_file)
        )
        if not episodes:
            return None
        for step in steps:
            for key in ("episode_id", "task_id", "group_id", "sample_index"):
                del step[key]
        steps.sort(key=lambda step: step["step_index"])
        return EpisodeRecord.model_validate({**episodes[0], "steps": steps})


def _read_episode_rows(file: Path, episode_id: str) -> list[dict[str, Any]]:
    """The rows of one episode, read a row group at a time."""
    found: list[dict[str, Any]] = []
    with naming_file(file), pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            ids = parquet.read_row_group(group, columns=["episode_id"])["episode_id"]
            if pc.index(ids, episode_id).as_py() >= 0:
                rows = parquet.read_row_group(group)
                found += rows.filter(pc.equal(rows["episode_id"], episode_id)).to_pylist()
    return found


def _shard_key(shard: Shard) -> str:
    return f"{shard.episodes_file}:{shard.episodes_sha256}:{shard.episodes}"


def _read_shard(folder: Path, shard: Shard) -> IndexPart:
    episodes = complete_columns(
        _read_columns(folder / shard.episodes_file, _READ_COLUMNS), _READ_COLUMNS, EPISODES
    )
    ids = _read_columns(folder / shard.steps_file, ["episode_id"])["episode_id"]
    counts = ids.value_counts()
    places = pc.index_in(episodes["episode_id"], counts.field("values"))
    turns = pc.fill_null(counts.field("counts").take(places), 0)
    return IndexPart(index_rows(episodes, turns), shard, None, _shard_key(shard))


def _read_columns(path: Path, names: Sequence[str]) -> Table:
    """Columns of a file, those of them that it has.

    `pyarrow.parquet.read_table` would do the same, but imports pyarrow's datasets for it, which takes as long
    as reading.
    """
    with naming_file(path), pq.ParquetFile(path) as file:
        return file.read(columns=list(names), use_threads=False)


def _read_segment(segment: Path, torn_tail: bool, key: str) -> IndexPart:
    lines = list(read_segment(segment, torn_tail=torn_tail))
    if not lines:
        return IndexPart(index_rows(EPISODES.empty_table(), pa.array([], pa.int64())), None, segment, key)
    records = parse_records(lines, pa.schema([RECORDS.field(name) for name in [*_READ_COLUMNS, "steps"]]))
    turns = pc.list_value_length(records["steps"]).cast(pa.int64())
    return IndexPart(index_rows(records, turns), None, segment, key)


def index_rows(episodes: Table, turns: Any) -> Table:
    """The index's rows of these episodes: structs and metrics as columns of their own.

    Args:
        episodes: Rows of the episodes table.
        turns: How many steps each has.
    """
    columns: dict[str, Any] = {name: episodes[name] for name in _PLAIN_COLUMNS}
    columns["turns"] = turns
    for name, fields in _STRUCT_COLUMNS.items():
        column = episodes[name].combine_chunks()
        columns |= {f"{_COLUMN_PREFIXES[name]}{field}": pc.struct_field(column, field) for field in fields}
    columns |= {f"{METRIC}{name}": values for name, values in _metric_columns(episodes["metrics"]).items()}
    return pa.table(columns)


def _metric_columns(texts: Any) -> dict[str, Any]:
    """The metrics as one column of numbers each."""
    values: list[str] = texts.to_pylist()
    if not values:
        return {}
    try:
        joined = "\n".join(text.replace("\n", " ") for text in values).encode()
        size = max(2**20, *map(len, values)) * 4
        parsed = pj.read_json(
            pa.BufferReader(joined), read_options=pj.ReadOptions(use_threads=False, block_size=size)
        )
        if parsed.num_rows == len(values):
            return {
                name: parsed[name].cast(pa.float64())
                for name in parsed.column_names
                if not pa.types.is_nested(parsed[name].type) and not pa.types.is_string(parsed[name].type)
            }
    except (pa.ArrowException, UnicodeError):  # not-a-numbers, or types that change from row to row
        pass
    return _metric_columns_one_by_one(values)


def _metric_columns_one_by_one(texts: list[str]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for text in texts:
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        rows.append(cast(dict[str, Any], row) if isinstance(row, dict) else {})
    names = sorted({name for row in rows for name in row})
    return {name: pa.array([_to_number(row.get(name)) for row in rows], pa.float64()) for name in names}


def _to_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _concatenate_tables(tables: list[Table]) -> Table:
    """The tables as one; a metric that one of them lacks is null there."""
    if not tables:
        return index_rows(EPISODES.empty_table(), pa.array([], pa.int64()))
    return pa.concat_tables(tables, promote_options="default").combine_chunks()
