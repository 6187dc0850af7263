"""Episodes of one copy of a run that another copy lacks, and how they come into it."""

import logging
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from cluster.dataset.arrow import pq
from cluster.dataset.dataset import episode_statuses
from cluster.dataset.durable import RunFolderError, replacing
from cluster.dataset.episodes import read_shard_records
from cluster.dataset.journal import list_segments, read_segment, segment_number
from cluster.dataset.manifest import Manifest, Shard, load_manifest, new_writer, write_manifest
from cluster.dataset.shards import belongs_to_run, last_segment, naming_file
from workers.records import EpisodeRecord

_log = logging.getLogger(__name__)


def find_unseen(source: Path, target: Path) -> Iterator[EpisodeRecord]:
    """Episodes of a run folder that another folder of the run has never had.

    What has once been part of the other one, and has been taken out of it since to be played again, is not
    among them.

    Args:
        source: The folder that may hold more.
        target: The other one.

    Raises:
        RunFolderError: One of them is damaged.
    """
    known = set(episode_statuses(target))
    theirs, mine = load_manifest(target), load_manifest(source)
    seen = {shard.segment: shard.bytes for shard in theirs.shards}
    seen |= {path.stem: path.stat().st_size for path in list_segments(target / "journal")}

    def is_seen(segment: str, size: int | None) -> bool:
        there = seen.get(segment)
        return there is not None and size is not None and size <= there

    done = {shard.segment for shard in mine.shards}
    for shard in mine.shards:
        if not is_seen(shard.segment, shard.bytes):
            yield from _drop_known(read_shard_records(source, shard), known)
    for segment in list_segments(source / "journal"):
        stem = segment.stem
        if stem not in done and belongs_to_run(stem, mine) and not is_seen(stem, segment.stat().st_size):
            yield from _drop_known(read_journal_records(segment), known)


def read_journal_records(segment: Path) -> Iterator[EpisodeRecord]:
    """The episodes of a journal's segment, of which the last ones may be damaged."""
    for record in read_segment(segment, torn_tail=True):
        yield EpisodeRecord.model_validate_json(record)


def read_stranger(folder: Path, name: str) -> Iterator[EpisodeRecord]:
    """The episodes of a file that a run's manifest does not name.

    Args:
        folder: Where the file is, and the steps' file beside that of the episodes.
        name: Its name in the run folder, `journal/….jsonl` or `episodes/….parquet`.

    Raises:
        RunFolderError: It is damaged.
    """
    if name.startswith("journal/"):
        yield from read_journal_records(folder / name)
        return
    steps = name.replace("episodes/", "steps/", 1)
    yield from read_shard_records(
        folder, Shard(segment=Path(name).stem, episodes_file=name, steps_file=steps, episodes=0, steps=0)
    )


def has_steps_of_run_only(folder: Path, steps: Path) -> bool:
    """Whether all steps in a file are of episodes that a run folder has.

    Raises:
        ShardCorrupt: The file is damaged.
    """
    with naming_file(steps):
        ids: set[str] = set(pq.read_table(steps, columns=["episode_id"])["episode_id"].to_pylist())
    return ids <= episode_statuses(folder).keys()


def add_episodes(folder: Path, records: Iterable[EpisodeRecord], states: Path | None = None) -> int:
    """Puts episodes into a run folder that nobody else uses, as a segment of its journal.

    Args:
        folder: The folder.
        records: The episodes; those that it has already are passed over.
        states: A run folder with the base states that they begin from. None: they are in `folder` already.

    Returns:
        How many were added.
    """
    manifest = load_manifest(folder)
    journal = folder / "journal"
    journal.mkdir(exist_ok=True)
    numbers = [last_segment(manifest), *map(segment_number, list_segments(journal))]
    segment = journal / f"{max(numbers) + 1:06d}-{new_writer()}.jsonl"
    known = set(episode_statuses(folder))
    wanted: set[str] = set()
    count = 0
    with replacing(segment) as temporary, temporary.open("wb") as file:
        for record in records:
            if record.episode_id in known:
                continue
            known.add(record.episode_id)
            body = record.model_dump_json().encode()
            file.write(b"%08x %b\n" % (zlib.crc32(body), body))
            count += 1
            if record.initial_state_id is not None:
                wanted.add(f"states/{record.initial_state_id}.parquet")
    if not count:
        segment.unlink()
        return 0
    for name in sorted(wanted - set(manifest.states)):
        if states is not None and (states / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(states / name, folder / name)
            manifest.states.append(name)
    taken_over = _list_segments(manifest, journal) | {segment.stem: segment.stat().st_size}
    write_manifest(folder, manifest.model_copy(update={"taken_over": taken_over}))
    return count


def count_unseen(source: Path, target: Path) -> int:
    """How many episodes `find_unseen` finds; all of `source`'s if that cannot be told."""
    try:
        return sum(1 for _ in find_unseen(source, target))
    except RunFolderError as error:
        _log.warning("%s cannot be compared with %s: %s", source, target, error)
        return sum(shard.episodes for shard in load_manifest(source).shards) or 1


def _list_segments(manifest: Manifest, journal: Path) -> dict[str, int]:
    found = [path for path in list_segments(journal) if belongs_to_run(path.stem, manifest)]
    return {path.stem: path.stat().st_size for path in found}


def _drop_known(records: Iterable[EpisodeRecord], known: set[str]) -> Iterator[EpisodeRecord]:
    return (record for record in records if record.episode_id not in known)
