"""The journal: finished episodes, one checksummed line each, on disk before they count as done."""

import asyncio
import logging
import os
import re
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.dataset.durable import RunFolderError, fsync_folder

log = logging.getLogger(__name__)

_LINE = re.compile(rb"([0-9a-f]{8}) (.*)\n", re.DOTALL)


class JournalError(RunFolderError):
    """The journal cannot take a record."""


class JournalCorrupt(RunFolderError):
    """The journal holds something that no crash can have left there."""


def segment_number(segment: Path) -> int:
    """The number in a segment's name: 12 for `000012.jsonl`."""
    return int(segment.stem)


def list_segments(folder: Path) -> list[Path]:
    """The journal's segments, oldest first."""
    return sorted((path for path in folder.glob("*.jsonl") if path.stem.isdecimal()), key=segment_number)


def read_segment(segment: Path, *, torn_tail: bool = False) -> Iterator[bytes]:
    """Iterate over a segment's records, as the UTF-8 JSON text that was appended.

    Args:
        segment: A file of the journal.
        torn_tail: Whether the last record may be torn, and is then left out: so in the last segment of a
            journal whose writer was killed or is at work.

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
        match = _LINE.fullmatch(line)
        if match is None or int(match[1], 16) != zlib.crc32(match[2]):
            if torn_tail and end + len(line) >= size:
                return
            wrong = "no record" if match is None else f"a record whose CRC-32 is not {match[1].decode()}"
            raise JournalCorrupt(
                f"{segment}, line {number}: found {wrong} where a record must be: {_excerpt(line)}; "
                "restore the file, or remove the line to give up that episode"
            )
        end += len(line)
        yield end, match[2]


def _excerpt(line: bytes) -> str:
    return repr(line if len(line) <= 60 else line[:60] + b"...")[1:]


@dataclass
class _Append:
    """A line that waits to be written; without a line, the wish for a new segment."""

    line: bytes | None
    done: asyncio.Future[None]


class Journal:
    """An append-only journal in a folder of its own, with one writer.

    All appends that wait while a write is under way are written together and share one fsync, which runs
    on a thread of the journal's. One task owns the writing, from the first append to `close`.
    """

    def __init__(
        self, folder: Path, *, after: int = 0, max_records: int = 512, max_bytes: int = 64 * 2**20
    ) -> None:
        """Open the journal, and mend what a killed writer left.

        The segments that are found are closed: appends go to a new one.

        Args:
            folder: Made if it is not there.
            after: Number of the last segment ever used, which the folder may hold no more.
            max_records: Records after which a segment is closed.
            max_bytes: Bytes after which a segment is closed; the last record may exceed them.

        Raises:
            JournalCorrupt: A record other than the very last is damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._max_records = max_records
        self._max_bytes = max_bytes
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
        await self._enqueue(b"%08x %b\n" % (zlib.crc32(body), body))

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

    async def _enqueue(self, line: bytes | None) -> None:
        if self._closing or self._broken:
            raise JournalError(
                f"the journal in {self.folder} takes no records: {self._broken or 'it is closed'}"
            )
        if self._owner is None:
            self._owner = asyncio.create_task(self._own(), name="journal")
        entry = _Append(line, asyncio.get_running_loop().create_future())
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
            if entry.line is None:
                break
            records += 1
            size += len(entry.line)
        return batch

    async def _settle(self, batch: list[_Append]) -> None:
        """Write a batch, and tell those who wait for it."""
        lines = [entry.line for entry in batch if entry.line is not None]
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
        path = self.folder / f"{self._number:06d}.jsonl"
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
    """Check every record, cut a torn one off the last segment, and remove segments without records."""
    kept: list[Path] = []
    for segment in segments:
        with segment.open("r+b") as file:
            ends = (end for end, _ in _scan(segment, file, torn_tail=segment == segments[-1]))
            end = max(ends, default=0)
            size = os.fstat(file.fileno()).st_size
            if end < size:
                log.warning(
                    "%s: dropped a torn last record of %d bytes; its episode was never acknowledged",
                    segment,
                    size - end,
                )
                file.truncate(end)
                os.fsync(file.fileno())
        if end:
            kept.append(segment)
        else:
            segment.unlink()
    return kept
