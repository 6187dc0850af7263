"""Shards: Parquet files made of journal segments, and how to read episodes wherever they lie."""

import hashlib
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster.dataset.arrow import Schema, Table, pa, pc, pj, pq
from cluster.dataset.durable import RunFolderError, replacing
from cluster.dataset.journal import (
    list_segments,
    may_be_torn,
    read_segment,
    segment_number,
    segment_writer,
)
from cluster.dataset.manifest import Manifest, Shard, load_manifest
from cluster.dataset.schemas import EPISODES, RECORDS, STATES, STEP_KEYS, STEPS
from workers.records import EpisodeRecord

_T = TypeVar("_T")

_BATCH_BYTES = 8 * 2**20
"""JSON text that is parsed at once and becomes a row group: what compaction needs in memory is a few
times this, however large a segment is."""

_REVISION = re.compile(r"-(\d+)(?:-w[0-9a-f]+)?")
"""What comes after the segment's name in that of a shard's file that was written again."""

# Dictionaries cost a third of the writing time here, and zstd finds the same repetitions.
_PARQUET: dict[str, Any] = {"compression": "zstd", "use_dictionary": False}


class ShardCorrupt(RunFolderError):
    """A shard's file is not there, or is not what was written."""


class CompactionError(RunFolderError):
    """A segment holds a record that does not fit the dataset's schema."""


def compact(segment: Path, run_dir: Path, writer: str | None = None) -> Shard:
    """Turn a closed journal segment into a shard: a file of `episodes/` and one of `steps/`.

    The files' names follow from the segment's, so doing it again puts the same files in place of the first.

    Args:
        segment: The segment.
        run_dir: The run folder.
        writer: Who does it, where the segment is another's who may make a shard of it, too, and of more
            records; the files' names tell.

    Raises:
        CompactionError: A record does not fit the schema; names it.
        JournalCorrupt: The segment is damaged.
    """
    name = f"{segment.stem}.parquet" if writer is None else f"{segment.stem}-0-{writer}.parquet"
    shard = Shard(
        segment=segment.stem,
        episodes_file=f"episodes/{name}",
        steps_file=f"steps/{name}",
        episodes=0,
        steps=0,
        bytes=segment.stat().st_size,
    )
    with ExitStack() as files:
        episodes_file, steps_file = (
            files.enter_context(replacing(run_dir / file)) for file in (shard.episodes_file, shard.steps_file)
        )
        episodes_writer = files.enter_context(pq.ParquetWriter(episodes_file, EPISODES, **_PARQUET))
        steps_writer = files.enter_context(pq.ParquetWriter(steps_file, STEPS, **_PARQUET))
        for first, lines in _batches(segment):
            try:
                records = parse_records(lines, RECORDS)
            except (ValueError, pa.ArrowException) as error:
                raise CompactionError(f"{segment}: {_describe_bad_record(lines, first) or error}") from error
            episodes_writer.write_table(records.select(EPISODES.names))
            shard.episodes += records.num_rows
            steps = flatten_steps(records)
            shard.steps += steps.num_rows
            # `datasets` cannot load a Parquet file whose first row group is empty; one without any, it can.
            if steps.num_rows:
                steps_writer.write_table(steps)
    return _add_digests(shard, run_dir)


@contextmanager
def naming_file(file: Path) -> Generator[None]:
    """Names the file of a shard in the error of a read that fails.

    Raises:
        ShardCorrupt: It cannot.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ShardCorrupt(
            f"{file} cannot be read: {error}; restore it, or take its shard out of manifest.json to give its "
            "episodes up, and have `kumite run --resume` play them again"
        ) from error


def rewrite_without(shard: Shard, run_dir: Path, episode_ids: set[str], writer: str | None = None) -> Shard:
    """Write a shard again without these episodes, under new names; the old files stay.

    Args:
        shard: The shard.
        run_dir: The run folder.
        episode_ids: The episodes.
        writer: Who does it, to be named in the files' names. None: nobody else can.

    Returns:
        The new shard; the same one where it has none of these episodes.
    """
    ids = pa.array(sorted(episode_ids), pa.string())
    tables: list[Table] = []
    for file in (shard.episodes_file, shard.steps_file):
        with naming_file(run_dir / file):
            tables.append(pq.read_table(run_dir / file))
    kept = [table.filter(pc.invert(pc.is_in(table["episode_id"], ids))) for table in tables]
    if kept[0].num_rows == tables[0].num_rows:
        return shard
    match = _REVISION.fullmatch(Path(shard.episodes_file).stem.removeprefix(shard.segment))
    revision = (int(match[1]) if match else 0) + 1
    name = f"{shard.segment}-{revision}{f'-{writer}' if writer else ''}.parquet"
    for folder, table, schema in zip(("episodes", "steps"), kept, (EPISODES, STEPS), strict=True):
        with (
            replacing(run_dir / folder / name) as temporary,
            pq.ParquetWriter(temporary, schema, **_PARQUET) as file,
        ):
            if table.num_rows:
                file.write_table(table)
    written = Shard(
        segment=shard.segment,
        episodes_file=f"episodes/{name}",
        steps_file=f"steps/{name}",
        episodes=kept[0].num_rows,
        steps=kept[1].num_rows,
        bytes=shard.bytes,
    )
    return _add_digests(written, run_dir)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add_digests(shard: Shard, run_dir: Path) -> Shard:
    """The same shard with the digests of its files, by which a later check finds a changed byte."""
    shard.episodes_sha256 = file_sha256(run_dir / shard.episodes_file)
    shard.steps_sha256 = file_sha256(run_dir / shard.steps_file)
    return shard


def parse_records(lines: Sequence[bytes], schema: Schema) -> Table:
    """Parse records (JSON texts) into a table of this schema; other fields of theirs are passed over.

    Raises:
        ValueError: A record does not fit.
    """
    table = pj.read_json(
        pa.BufferReader(b"\n".join(lines)),
        # A block holds whole records, and the largest must fit.
        read_options=pj.ReadOptions(use_threads=False, block_size=max(2**20, *map(len, lines)) + 1),
        parse_options=pj.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="error" if schema is RECORDS else "ignore",
        ),
    )
    # The parser heeds what the schema requires, but its result's own schema does not say so.
    return table.select(schema.names).cast(schema)


def flatten_steps(records: Table) -> Table:
    """The `steps` table of these records: one row per step, after the keys of its episode."""
    batches: list[Table] = []
    for batch in records.to_batches():
        steps = batch.column("steps")
        rows = pc.list_parent_indices(steps)
        keys = [batch.column(key).take(rows) for key in STEP_KEYS]
        batches.append(pa.Table.from_arrays([*keys, *pc.list_flatten(steps).flatten()], schema=STEPS))
    return pa.concat_tables(batches) if batches else STEPS.empty_table()


def write_state(run_dir: Path, state_id: str, state: str) -> None:
    """Write one base environment state into a file of `states/` that is named after it."""
    table = pa.Table.from_pydict({"state_id": [state_id], "state": [state]}, schema=STATES)
    with replacing(run_dir / "states" / f"{state_id}.parquet") as temporary:
        pq.write_table(table, temporary, **_PARQUET)


def iterate_episodes(run_dir: Path, columns: Sequence[str]) -> Iterator[Table]:
    """Iterate over these columns of all of a run's episodes, in tables that fit in memory.

    Reads the shards that the manifest names and the journal segments that are not among them. The run may
    be at work, or have been killed.

    Raises:
        ManifestError: The folder holds no run, or one of another format.
        JournalCorrupt: A segment is damaged.
        ShardCorrupt: A shard is.
    """
    schema = pa.schema([EPISODES.field(name) for name in columns])

    def of_segment(segment: Path, torn_tail: bool) -> Iterator[Table]:
        for _, lines in _batches(segment, torn_tail=torn_tail):
            yield parse_records(lines, schema)

    yield from read_run(run_dir, lambda shard: _shard_episodes(run_dir, shard, columns), of_segment)


def read_run(
    run_dir: Path, of_shard: Callable[[Shard], Iterator[_T]], of_segment: Callable[[Path, bool], Iterator[_T]]
) -> Iterator[_T]:
    """Reads the shards that the manifest names and the journal segments that are not among them.

    Args:
        run_dir: The run folder; the run may be at work, or have been killed.
        of_shard: Reads a shard.
        of_segment: Reads a segment, of which the last record may be torn if so said.

    Raises:
        ManifestError: The folder holds no run, or one of another format.
    """
    # Listed before the manifest is read, so that a segment compacted in between is not missed.
    segments = list_segments(run_dir / "journal")
    manifest = load_manifest(run_dir)
    torn = may_be_torn(segments)
    for shard in manifest.shards:
        yield from _read_shard(run_dir, shard, of_shard)
    for segment in uncompacted(segments, manifest):
        try:
            yield from of_segment(segment, segment in torn)
        except FileNotFoundError:  # it has become a shard meanwhile
            yield from _read_shard(run_dir, _find_shard(run_dir, segment.stem), of_shard)


def _read_shard(run_dir: Path, shard: Shard, of_shard: Callable[[Shard], Iterator[_T]]) -> Iterator[_T]:
    """Reads a shard, or what it was replaced by since the manifest was read (`Dataset.forget`)."""
    while True:
        try:
            yield from of_shard(shard)
            return
        except ShardCorrupt as error:  # none of its episodes was given
            now = _find_shard(run_dir, shard.segment)
            if not isinstance(error.__cause__, FileNotFoundError) or now == shard:
                raise
            shard = now


def _find_shard(run_dir: Path, segment: str) -> Shard:
    """The shard of a segment, as the manifest has it now.

    Raises:
        ShardCorrupt: There is none.
    """
    for shard in load_manifest(run_dir).shards:
        if shard.segment == segment:
            return shard
    raise ShardCorrupt(
        f"{run_dir} is damaged: segment {segment} of its journal is gone, and manifest.json names no shard "
        "that was made of it; restore one of them"
    )


def _shard_episodes(run_dir: Path, shard: Shard, columns: Sequence[str]) -> Iterator[Table]:
    path = run_dir / shard.episodes_file
    with naming_file(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(columns)):
            yield complete_columns(pa.Table.from_batches([batch]), columns, EPISODES)


def complete_columns(table: Table, columns: Sequence[str], schema: Schema) -> Table:
    """A table of these columns as they are now: what an older version did not write is null.

    Args:
        table: As it was read.
        columns: Names of the columns.
        schema: What types they have now.
    """
    held = [
        table[name].cast(schema.field(name).type)
        if name in table.column_names
        else pa.nulls(table.num_rows, schema.field(name).type)
        for name in columns
    ]
    return pa.Table.from_arrays(held, names=list(columns))


def uncompacted(segments: Sequence[Path], manifest: Manifest) -> list[Path]:
    """Those of the journal's segments that are part of the run and that the manifest names no shard of."""
    done = {shard.segment for shard in manifest.shards}
    return [
        segment for segment in segments if segment.stem not in done and belongs_to_run(segment.stem, manifest)
    ]


def belongs_to_run(segment: str, manifest: Manifest) -> bool:
    """Whether a segment of the journal is part of the run.

    One that a writer has added after another one has taken the run up is not: its episodes may have been
    played again.

    Args:
        segment: Its name, without the ending.
        manifest: The run's.
    """
    writer = segment_writer(segment)
    return writer is None or manifest.has_segment(segment, writer)


def last_segment(manifest: Manifest) -> int:
    """Number of the last segment that became a shard; 0 if none did."""
    return max((segment_number(Path(shard.segment)) for shard in manifest.shards), default=0)


def _batches(segment: Path, *, torn_tail: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Cut a segment into lists of records, each with the line number of its first."""
    lines: list[bytes] = []
    first, size = 1, 0
    for record in read_segment(segment, torn_tail=torn_tail):
        lines.append(record)
        size += len(record)
        if size >= _BATCH_BYTES:
            yield first, lines
            first, lines, size = first + len(lines), [], 0
    if lines:
        yield first, lines


def _describe_bad_record(lines: Sequence[bytes], first: int) -> str | None:
    """Find the record that the schema refuses, and say what is wrong with it."""
    for number, line in enumerate(lines, start=first):
        try:
            EpisodeRecord.model_validate_json(line)
            parse_records([line], RECORDS)
        except (ValueError, pa.ArrowException) as error:
            return f"line {number} does not fit the dataset's schema: {error}"
    return None
