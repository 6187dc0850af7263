"""The journal: finished episodes, one checksummed line each, on disk before they count as done."""

import asyncio
import logging
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.dataset.durable import RunFolderError, fsync_folder

log = logging.getLogger(__name__)

_LINE_OVERHEAD = 10
"""Bytes of a line that are not its record's text."""
_LINE = re.compile(rb"([0-9a-f]{8})[ \t](.*)\n", re.DOTALL)
_NAME = re.compile(r"(\d+)(?:-(w[0-9a-f]+))?")
_FIRST, _FURTHER = b" ", b"\t"
"""What stands between a record's CRC-32 and its text: of a batch, which shares an fsync, the first record has
the one, the others have the other. So a reader knows that what stands before a `_FIRST` was synced."""


class JournalError(RunFolderError):
    """The journal cannot take a record."""


class JournalCorrupt(RunFolderError):
    """The journal holds something that no crash can have left there."""


def segment_number(segment: Path) -> int:
    """The number in a segment's name: 12 for `000012.jsonl` and for `000012-w5f1d0a3c.jsonl`."""
    match = _NAME.fullmatch(segment.stem)
    if match is None:
        raise ValueError(f"{segment} is not named like a segment of a journal")
    return int(match[1])


def segment_writer(name: str) -> str | None:
    """The writer in a segment's name without its ending; None where it names none, as in a run at no URI."""
    match = _NAME.fullmatch(name)
    return match[2] if match else None


def list_segments(folder: Path) -> list[Path]:
    """The journal's segments, oldest first."""
    found = (path for path in folder.glob("*.jsonl") if _NAME.fullmatch(path.stem))
    return sorted(found, key=lambda path: (segment_number(path), path.name))


def may_be_torn(segments: Sequence[Path]) -> set[Path]:
    """The last segment of each writer: the only ones whose last batch may not be on disk.

    Args:
        segments: All of a journal's, oldest first.
    """
    return set({segment_writer(segment.stem): segment for segment in segments}.values())


def read_segment(segment: Path, *, torn_tail: bool = False) -> Iterator[bytes]:
    """Iterate over a segment's records, as the UTF-8 JSON text that was appended.

    Args:
        segment: A file of the journal.
        torn_tail: Whether the last batch may be damaged, and is then left out from there: so in the last
            segment of a writer that was killed, lost its power, or is at work.

    Raises:
        JournalCorrupt: A record is damaged.
    """
    with segment.open("rb") as file:
        for _, record in _scan(segment, file, torn_tail=torn_tail):
            yield record


def _scan(segment: Path, file: IO[bytes], *, torn_tail: bool) -> Iterator[tuple[int, bytes]]:
    """Yield each record with the offset at which it ends."""
    end = 0
    size = os.fstat(file.fileno()).st_size  # the writer may be in the middle of a line, and go on meanwhile
    for number, line in enumerate(file, start=1):
        match = _match_record(line)
        if match is None:
            if torn_tail and (end + len(line) >= size or _is_unsynced(line, file, size)):
                return
            found = _LINE.fullmatch(line)
            wrong = "no record" if found is None else f"a record whose CRC-32 is not {found[1].decode()}"
            raise JournalCorrupt(
                f"{segment}, line {number}: found {wrong} where a record must be: {_excerpt(line)}; "
                "restore the file, or remove the line to give up that episode"
            )
        end += len(line)
        yield end, match[2]


def _match_record(line: bytes) -> re.Match[bytes] | None:
    """The parts of a line; None if it is damaged."""
    match = _LINE.fullmatch(line)
    return match if match is not None and int(match[1], 16) == zlib.crc32(match[2]) else None


def _is_unsynced(damaged: bytes, file: IO[bytes], size: int) -> bool:
    """Whether a damaged line is of the last batch, of which a loss of power may leave some pages only.

    Then no later batch was begun. A journal from before batches were marked does not tell; there, bytes of
    zero, which no record has and a page that was never written consists of, are taken as the sign.

    Args:
        damaged: The line.
        file: The segment, from after the line.
        size: Where to stop reading.
    """
    for line in file:
        if file.tell() > size:
            break
        match = _match_record(line)
        if match is None:
            damaged += line
        elif line[8:9] == _FIRST and b"\0" not in damaged:
            return False
    return True


def _excerpt(line: bytes) -> str:
    return repr(line if len(line) <= 60 else line[:60] + b"...")[1:]


@dataclass
class _Append:
    """A record that waits to be written; without one, the wish for a new segment."""

    body: bytes | None
    done: asyncio.Future[None]


class Journal:
    """An append-only journal in a folder of its own, with one writer.

    All appends that wait while a write is under way are written together and share one fsync, which runs
    on a thread of the journal's. One task owns the writing, from the first append to `close`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        after: int = 0,
        max_records: int = 512,
        max_bytes: int = 64 * 2**20,
        writer: str | None = None,
    ) -> None:
        """Open the journal, and mend what a killed writer left.

        The segments that are found are closed: appends go to a new one.

        Args:
            folder: Made if it is not there.
            after: Number of the last segment ever used, which the folder may hold no more.
            max_records: Records after which a segment is closed.
            max_bytes: Bytes after which a segment is closed; the last record may exceed them.
            writer: What segments' names tell of who wrote them, so that two writers never use one name.

        Raises:
            JournalCorrupt: A record is damaged that was synced.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._ending = f"-{writer}.jsonl" if writer else ".jsonl"
        self._closed = _mend(list_segments(folder))
        self._number = max([after, *map(segment_number, self._closed)])
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._records = 0
        self._bytes = 0
        self._pending: deque[_Append] = deque()
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._owner: asyncio.Task[None] | None = None
        self._closing = False
        self._broken: str | None = None

    def closed_segments(self) -> list[Path]:
        """The segments that nothing will be appended to any more, oldest first."""
        return list(self._closed)

    def remove(self, segment: Path) -> None:
        """Delete a closed segment whose records are safe elsewhere."""
        self._closed.remove(segment)
        segment.unlink()

    async def append(self, record: str) -> None:
        """Append one record; when this returns, the record is on disk.

        Args:
            record: JSON text without a line break.

        Raises:
            JournalError: It could not be written (the disk is full), or the journal is closed. A failed
                write is undone; where even that fails, the journal takes nothing more.
        """
        body = record.encode()
        if b"\n" in body:
            raise JournalError("a journal record is one line of JSON: this one has a line break")
        await self._enqueue(body)

    async def rotate(self) -> None:
        """Close the current segment, after the appends that were asked for before."""
        await self._enqueue(None)

    async def close(self) -> None:
        """Write what is pending, and give the journal up. The current segment stays as it is."""
        self._closing = True
        self._wake.set()
        if self._owner is not None:
            await self._owner
        if self._file is not None:
            self._file.close()
        self._thread.shutdown()

    async def _enqueue(self, body: bytes | None) -> None:
        if self._closing or self._broken:
            raise JournalError(
                f"the journal in {self.folder} takes no records: {self._broken or 'it is closed'}"
            )
        if self._owner is None:
            self._owner = asyncio.create_task(self._own(), name="journal")
        entry = _Append(body, asyncio.get_running_loop().create_future())
        self._pending.append(entry)
        self._wake.set()
        await entry.done

    async def _own(self) -> None:
        """Write batch after batch until the journal is closed or broken."""
        batch: list[_Append] = []
        try:
            while not self._broken:
                batch = self._next_batch()
                if batch:
                    await self._settle(batch)
                elif self._closing:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._broken = self._broken or ("it is closed" if self._closing else "its task was cancelled")
            for entry in (*batch, *self._pending):
                if not entry.done.done():
                    entry.done.set_exception(
                        JournalError(f"perhaps not written to {self.folder}: {self._broken}")
                    )

    def _next_batch(self) -> list[_Append]:
        """Take what waits, up to the end of the segment."""
        batch: list[_Append] = []
        records, size = self._records, self._bytes
        while self._pending and records < self._max_records and size < self._max_bytes:
            entry = self._pending.popleft()
            batch.append(entry)
            if entry.body is None:
                break
            records += 1
            size += len(entry.body) + _LINE_OVERHEAD
        return batch

    async def _settle(self, batch: list[_Append]) -> None:
        """Write a batch, and tell those who wait for it."""
        bodies = [entry.body for entry in batch if entry.body is not None]
        separators = [_FIRST, *[_FURTHER] * len(bodies)]
        lines = [
            b"%08x%b%b\n" % (zlib.crc32(body), separator, body)
            for separator, body in zip(separators, bodies, strict=False)
        ]
        rotate = len(lines) < len(batch)
        error: OSError | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, lines, rotate)
        except OSError as raised:
            error = raised
        for entry in batch:
            if entry.done.done():
                continue
            if error is None:
                entry.done.set_result(None)
            else:
                failure = JournalError(
                    f"cannot write to the journal in {self.folder}: {error.strerror or error}; "
                    "the episodes acknowledged before are safe"
                )
                failure.__cause__ = error
                entry.done.set_exception(failure)

    def _write(self, lines: list[bytes], rotate: bool) -> None:
        """Write and fsync lines, on the journal's thread; close the segment if asked to or if full."""
        if lines:
            file = self._file or self._open_segment()
            try:
                unwritten = memoryview(b"".join(lines))
                while unwritten:
                    unwritten = unwritten[file.write(unwritten) :]
                os.fsync(file.fileno())
            except OSError:
                self._undo(file)
                raise
            self._records += len(lines)
            self._bytes += sum(map(len, lines))
        full = self._records >= self._max_records or self._bytes >= self._max_bytes
        if (full or rotate) and self._file is not None and self._path is not None:
            self._file.close()
            if self._records:
                self._closed.append(self._path)
            else:
                self._path.unlink()
            self._file = self._path = None
            self._records = self._bytes = 0

    def _open_segment(self) -> IO[bytes]:
        self._number += 1
        path = self.folder / f"{self._number:06d}{self._ending}"
        file = path.open("xb", buffering=0)
        fsync_folder(self.folder)
        self._path, self._file = path, file
        return file

    def _undo(self, file: IO[bytes]) -> None:
        """Cut off what a failed write left. If even that fails, nothing may be written after it."""
        try:
            file.truncate(self._bytes)
            file.seek(self._bytes)
            os.fsync(file.fileno())
        except OSError as error:
            self._broken = f"a failed write could not be undone ({error.strerror or error})"


def _mend(segments: list[Path]) -> list[Path]:
    """Check every record, cut off what was never synced, and remove segments without records.

    What is cut off and holds more than one torn record is kept beside the segment, as `<segment>.lost`.
    """
    kept: list[Path] = []
    torn = may_be_torn(segments)
    for segment in segments:
        with segment.open("r+b") as file:
            ends = (end for end, _ in _scan(segment, file, torn_tail=segment in torn))
            end = max(ends, default=0)
            size = os.fstat(file.fileno()).st_size
            if end < size:
                file.seek(end)
                _report_lost(segment, file.read())
                file.truncate(end)
                os.fsync(file.fileno())
        if end:
            kept.append(segment)
        else:
            segment.unlink()
    return kept


def _report_lost(segment: Path, tail: bytes) -> None:
    """Say what is cut off the end of a segment, and keep it if whole records are among it."""
    whole = sum(_match_record(line) is not None for line in tail.splitlines(keepends=True))
    if not whole:
        log.warning(
            "%s: dropped a torn last record of %d bytes; its episode was never acknowledged",
            segment,
            len(tail),
        )
        return
    beside = segment.with_suffix(".lost")
    beside.write_bytes(tail)
    log.warning(
        "%s: dropped the last %d bytes, which were never synced: what comes before its %d whole records is "
        "damaged; none of their episodes was acknowledged, and they are played again (the bytes are in %s)",
        segment,
        len(tail),
        whole,
        beside,
    )
