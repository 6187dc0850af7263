"""The dataset of a run: what finished episodes go through on their way to Parquet."""

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from cluster.dataset.durable import RunFolderError, fsync_folder, lock_folder, naming_place
from cluster.dataset.journal import Journal
from cluster.dataset.manifest import (
    LoopPlace,
    Manifest,
    ManifestError,
    TasksDigest,
    load_manifest,
    manifest_path,
    new_writer,
)
from cluster.dataset.reserve import Reserve
from cluster.dataset.shard_store import TABLES, ShardStore
from cluster.dataset.shards import iterate_episodes, last_segment
from cluster.dataset.take_up import COPIED, take_up
from workers.cancellation import run_to_end
from workers.records import EpisodeResult

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Dataset:
    """A run's dataset, open for writing.

    An episode is appended to the journal; a full journal segment is compacted into a shard; the manifest
    is made to name the shard; the segment is deleted. Each step is durable before the next begins, and can
    be done again, so a process killed at any moment leaves every acknowledged episode in exactly one of
    the two places: in a shard that the manifest names, or in the journal.

    Segments are compacted on a thread while the run goes on. A segment that cannot be compacted stays in
    the journal, and `commit` says why. While it is open the folder holds a reserve of disk space, which
    `commit` falls back on when the disk is full: each segment that becomes a shard then makes room.
    """

    def __init__(self, run_dir: Path, lock: IO[bytes], manifest: Manifest, journal: Journal) -> None:
        """Use `Dataset.open`."""
        self.run_dir = run_dir
        self._reserve = Reserve(run_dir)
        self._lock = lock
        self._journal = journal
        self._store = ShardStore(run_dir, manifest, journal)
        # All that is written besides the journal is written by this one thread, in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dataset")
        self._refusal: RunFolderError | None = None
        self._compaction: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        run_dir: Path,
        run_id: str,
        *,
        segment_records: int = 512,
        segment_bytes: int = 64 * 2**20,
        reserve_bytes: int = 32 * 2**20,
        lock: IO[bytes] | None = None,
        writer: str | None = None,
    ) -> "Dataset":
        """Open a run folder, made if it is not there; mend and finish what a killed process left.

        Args:
            run_dir: The run folder.
            run_id: The run; a folder that holds another run is refused.
            segment_records: Episodes after which a journal segment becomes a shard.
            segment_bytes: Bytes of JSON text after which it does.
            reserve_bytes: Disk space to set aside for the first shard that is written to a full disk.
            lock: The folder's lock, where the caller has taken it; closed with the dataset.
            writer: The id with which the caller has taken the run up. None: it is taken up here.

        Raises:
            ManifestError: The folder holds another run, or one of another format version.
            RunFolderLocked: Another process is writing this run.
            JournalCorrupt: The journal is damaged.
            RunFolderError: The folder cannot be written, for example because the disk is full.
        """
        opening = asyncio.ensure_future(
            asyncio.to_thread(
                cls._open, run_dir, run_id, segment_records, segment_bytes, reserve_bytes, lock, writer
            )
        )
        try:
            with naming_place(run_dir):
                return await run_to_end(opening)
        except asyncio.CancelledError:
            if not opening.cancelled() and opening.exception() is None:
                await run_to_end(opening.result().close())  # for nobody else can let go of the folder
            raise

    @classmethod
    def _open(
        cls,
        run_dir: Path,
        run_id: str,
        segment_records: int,
        segment_bytes: int,
        reserve_bytes: int,
        lock: IO[bytes] | None,
        writer: str | None,
    ) -> "Dataset":
        try:
            for folder in ("journal", *TABLES):
                (run_dir / folder).mkdir(parents=True, exist_ok=True)
            for folder in (run_dir, run_dir.parent):
                fsync_folder(folder)
            lock = lock or lock_folder(run_dir)
            manifest = load_manifest(run_dir) if manifest_path(run_dir).exists() else Manifest(run_id=run_id)
            if manifest.run_id != run_id:
                raise ManifestError(f"{run_dir} holds run {manifest.run_id!r}, not {run_id!r}")
            if writer is None or manifest.writer != writer:
                manifest = take_up(run_dir, manifest, writer or new_writer())
            journal = Journal(
                run_dir / "journal",
                after=last_segment(manifest),
                max_records=segment_records,
                max_bytes=segment_bytes,
                writer=manifest.writer if (run_dir / COPIED).exists() else None,
            )
            dataset = cls(run_dir, lock, manifest, journal)
            dataset._store.recover()
            dataset._reserve.hold(reserve_bytes)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        return dataset

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is on disk."""
        return self._store.manifest

    async def append(self, result: EpisodeResult) -> None:
        """Add an episode, and the base states that come with it; durable when this returns.

        Raises:
            RunFolderError: It could not be written, for example because the disk is full; or no more is to
                be (`refuse`).
        """
        if self._refusal is not None:
            raise self._refusal
        await self.add_states(result.states)
        await self._journal.append(result.record)
        if self._compaction is None and self._has_work():
            self._compaction = asyncio.create_task(self._compact_in_background(), name="compaction")

    def refuse(self, reason: str) -> None:
        """Take no further episodes: whoever appends one is told why."""
        self._refusal = RunFolderError(reason)

    async def add_states(self, states: dict[str, str]) -> None:
        """Add base environment states (JSON text by id); those that are there already are passed over."""
        if states:
            await self._on_thread(lambda: self._store.write_states(states))

    async def set_planned(self, episodes: int, loop: LoopPlace | None = None) -> None:
        """Note in the manifest how many episodes the run is to have, and how far a trainer's loop is."""
        await self._on_thread(lambda: self._store.update_manifest(planned=episodes, loop=loop))

    async def set_origin(self, run_id: str) -> None:
        """Note in the manifest that the episodes are those of another run, scored again."""
        await self._on_thread(lambda: self._store.update_manifest(rescored_from=run_id))

    async def set_tasks(
        self,
        split: str,
        tasks: TasksDigest,
        write: Callable[[Path, str], None],
        shuffled_by: str | None = None,
    ) -> None:
        """Note in the manifest which tasks of a split the run plays, and what seeded their order.

        Args:
            split: Whose tasks.
            tasks: Their digest.
            write: Writes their list into the run folder, before the manifest speaks of it.
            shuffled_by: What seeded their order.
        """

        def note() -> None:
            write(self.run_dir, split)
            self._store.update_manifest(
                tasks={**self._store.manifest.tasks, split: tasks}, shuffled_by=shuffled_by
            )

        await self._on_thread(note)

    async def commit(self, *, wall_seconds: float | None = None, cancelled: int | None = None) -> Manifest:
        """Turn all that was appended into shards.

        Args:
            wall_seconds: Seconds the run has taken so far; noted in the manifest.
            cancelled: Episodes that the run has cancelled so far; noted in the manifest.

        Returns:
            The manifest, which names all shards.

        Raises:
            RunFolderError: A file could not be written, or a record does not fit the dataset's schema
                (`CompactionError`). What was to become a shard stays in the journal.
        """
        noted: dict[str, object] = {"wall_seconds": wall_seconds, "cancelled": cancelled}
        changes = {name: value for name, value in noted.items() if value is not None}
        try:
            await self._commit(changes)
        except RunFolderError as error:
            if not (_is_full(error) and self._reserve.release()):
                raise
            _log.warning("%s: what has finished is committed with the last space set aside", error)
            await self._commit(changes)
        return self._store.manifest

    async def _commit(self, changes: dict[str, object]) -> None:
        await self._journal.rotate()
        await self._on_thread(self._store.compact_all)
        for error in self._store.stuck.values():
            raise error
        if changes:
            await self._on_thread(lambda: self._store.update_manifest(**changes))

    async def forget(self, episode_ids: set[str]) -> None:
        """Take episodes out of the dataset, so that they can be played again. All or none of a shard's go.

        Only episodes that are in shards can be taken out: `commit` first.

        Raises:
            RunFolderError: A file could not be written, or one of them is in a segment that is no shard yet.
        """
        await self._on_thread(lambda: self._store.forget(episode_ids))

    async def statuses(self) -> dict[str, str]:
        """The status of each episode that is there, `finished` or `failed`, by episode id."""
        return await self._on_thread(lambda: episode_statuses(self.run_dir))

    async def episode_ids(self) -> set[str]:
        """The ids of the episodes that are there."""
        return set(await self.statuses())

    async def close(self) -> None:
        """Let the compaction under way finish, and let go of the folder.

        Nothing is lost without `commit`: what is in the journal becomes a shard when the folder is opened.
        """
        await run_to_end(self._close())

    async def _close(self) -> None:
        if self._compaction is not None:
            await self._compaction
        await self._journal.close()
        self._thread.shutdown()
        self._reserve.release()
        self._lock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _has_work(self) -> bool:
        return any(segment not in self._store.stuck for segment in self._journal.closed_segments())

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except OSError as error:
            raise RunFolderError(f"cannot write in {self.run_dir}: {error.strerror or error}") from error

    async def _compact_in_background(self) -> None:
        try:
            while self._has_work():
                await self._on_thread(self._store.compact_closed)
        finally:
            self._compaction = None


def _is_full(error: RunFolderError) -> bool:
    """Whether it comes of a full disk; Arrow's own errors may have a text and no number."""
    cause = error.__cause__
    return isinstance(cause, OSError) and (cause.errno == errno.ENOSPC or "No space left" in str(cause))


def episode_statuses(run_dir: Path) -> dict[str, str]:
    """The status of each episode in a run folder, by episode id, without opening it for writing.

    Raises:
        ManifestError: The folder holds no run.
        JournalCorrupt: The journal is damaged.
    """
    statuses: dict[str, str] = {}
    for table in iterate_episodes(run_dir, ("episode_id", "status")):
        statuses.update(zip(table["episode_id"].to_pylist(), table["status"].to_pylist(), strict=True))
    return statuses
