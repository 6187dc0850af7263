import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from cluster.dataset import journal as journal_module
from cluster.dataset.journal import Journal, JournalCorrupt, JournalError, list_segments, read_segment
from tests.cluster.synthetic import line


def records(folder: Path) -> list[str]:
    return [record.decode() for segment in list_segments(folder) for record in read_segment(segment)]


async def test_appended_records_come_back_as_they_were(tmp_path: Path):
    journal = Journal(tmp_path)
    texts = ['{"a": 1}', '{"b": "é – 💶 \\u2028"}', "{}"]
    for text in texts:
        await journal.append(text)
    await journal.close()
    assert records(tmp_path) == texts
    assert (tmp_path / "000001.jsonl").read_bytes() == b"".join(map(line, texts))


async def test_record_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    fsync = os.fsync

    def observed(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    journal = Journal(tmp_path)
    monkeypatch.setattr(os, "fsync", observed)
    for number in range(3):
        await journal.append(f'{{"n": {number}}}')
        assert synced[-1] == (tmp_path / "000001.jsonl").stat().st_size
    await journal.close()


async def test_concurrent_appends_share_fsyncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = 0
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    journal = Journal(tmp_path)
    await asyncio.gather(*(journal.append(f'{{"n": {number}}}') for number in range(200)))
    await journal.close()
    assert len(records(tmp_path)) == 200
    assert calls < 10


async def test_full_segment_is_closed_and_the_next_begun(tmp_path: Path):
    journal = Journal(tmp_path, max_records=2)
    await asyncio.gather(*(journal.append(f'{{"n": {number}}}') for number in range(5)))
    assert [segment.name for segment in journal.closed_segments()] == ["000001.jsonl", "000002.jsonl"]
    await journal.close()
    assert [len(list(read_segment(segment))) for segment in list_segments(tmp_path)] == [2, 2, 1]


async def test_segment_is_closed_at_its_size_limit(tmp_path: Path):
    journal = Journal(tmp_path, max_bytes=100)
    for _ in range(2):
        await journal.append('{"text": "' + "x" * 200 + '"}')
    assert len(journal.closed_segments()) == 2
    await journal.close()


async def test_rotate_closes_what_was_appended_and_nothing_when_there_is_nothing(tmp_path: Path):
    journal = Journal(tmp_path)
    await journal.rotate()
    assert journal.closed_segments() == []
    await journal.append("{}")
    await journal.rotate()
    await journal.rotate()
    assert [segment.name for segment in journal.closed_segments()] == ["000001.jsonl"]
    await journal.close()


async def test_reopened_journal_goes_on_in_a_new_segment(tmp_path: Path):
    for number in range(3):
        journal = Journal(tmp_path)
        assert len(journal.closed_segments()) == number
        await journal.append(f'{{"n": {number}}}')
        await journal.close()
    assert records(tmp_path) == ['{"n": 0}', '{"n": 1}', '{"n": 2}']


async def test_number_of_a_segment_that_is_gone_is_not_used_again(tmp_path: Path):
    journal = Journal(tmp_path, after=41)
    await journal.append("{}")
    await journal.close()
    assert [segment.name for segment in list_segments(tmp_path)] == ["000042.jsonl"]


async def test_removed_segment_is_gone(tmp_path: Path):
    journal = Journal(tmp_path, max_records=1)
    await journal.append("{}")
    journal.remove(journal.closed_segments()[0])
    assert journal.closed_segments() == list_segments(tmp_path) == []
    await journal.close()


@pytest.mark.parametrize("cut", [1, 5, 9, 14, 17])
async def test_torn_last_record_is_dropped(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture):
    segment = tmp_path / "000001.jsonl"
    whole, torn = line('{"n": 1}'), line('{"n": 2}')
    assert cut < len(torn)
    segment.write_bytes(whole + torn[:cut])
    with caplog.at_level(logging.WARNING):
        await Journal(tmp_path).close()
    assert segment.read_bytes() == whole
    assert f"dropped a torn last record of {cut} bytes" in caplog.text


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"0000", line('{"n": 2}').replace(b"2}", b"3}")])
async def test_garbage_at_the_very_end_is_dropped(tmp_path: Path, tail: bytes):
    segment = tmp_path / "000001.jsonl"
    segment.write_bytes(line('{"n": 1}') + tail)
    await Journal(tmp_path).close()
    assert records(tmp_path) == ['{"n": 1}']


def test_segment_with_nothing_but_a_torn_record_is_removed(tmp_path: Path):
    (tmp_path / "000001.jsonl").write_bytes(line("{}")[:-3])
    assert Journal(tmp_path).closed_segments() == []
    assert list_segments(tmp_path) == []


def test_damage_before_the_end_names_file_line_and_what_was_found(tmp_path: Path):
    segment = tmp_path / "000001.jsonl"
    segment.write_bytes(line('{"n": 1}') + line('{"n": 2}').replace(b"2}", b"7}") + line('{"n": 3}'))
    with pytest.raises(JournalCorrupt, match=r'000001\.jsonl, line 2: found a record whose CRC.*"n": 7'):
        Journal(tmp_path)


def test_torn_record_in_an_earlier_segment_is_corruption(tmp_path: Path):
    (tmp_path / "000001.jsonl").write_bytes(line('{"n": 1}') + line('{"n": 2}')[:-4])
    (tmp_path / "000002.jsonl").write_bytes(line('{"n": 3}'))
    with pytest.raises(JournalCorrupt, match=r"000001\.jsonl, line 2: found no record"):
        Journal(tmp_path)


def test_reader_of_a_journal_at_work_may_pass_over_a_torn_tail(tmp_path: Path):
    segment = tmp_path / "000001.jsonl"
    segment.write_bytes(line('{"n": 1}') + line('{"n": 2}')[:-4])
    assert list(read_segment(segment, torn_tail=True)) == [b'{"n": 1}']
    with pytest.raises(JournalCorrupt):
        list(read_segment(segment))


def test_reader_of_a_line_that_is_being_written_takes_it_as_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    segment, pattern = tmp_path / "000001.jsonl", journal_module._LINE
    segment.write_bytes(line("{}") + line("{}")[:5])

    class WriterGoesOn:
        def fullmatch(self, found: bytes) -> Any:
            if not found.endswith(b"\n"):
                segment.write_bytes(line("{}") * 3)
            return pattern.fullmatch(found)

    monkeypatch.setattr(journal_module, "_LINE", WriterGoesOn())
    assert list(read_segment(segment, torn_tail=True)) == [b"{}"]


async def test_record_with_a_line_break_is_refused(tmp_path: Path):
    journal = Journal(tmp_path)
    with pytest.raises(JournalError, match="line break"):
        await journal.append('{\n"a": 1}')
    await journal.close()
    assert list_segments(tmp_path) == []


async def test_closed_journal_takes_no_records(tmp_path: Path):
    journal = Journal(tmp_path)
    await journal.append("{}")
    await journal.close()
    await journal.close()
    with pytest.raises(JournalError, match="closed"):
        await journal.append("{}")


async def test_close_writes_what_is_pending(tmp_path: Path):
    journal = Journal(tmp_path)
    appends = [asyncio.create_task(journal.append(f'{{"n": {number}}}')) for number in range(20)]
    await asyncio.sleep(0)
    await journal.close()
    await asyncio.gather(*appends)
    assert len(records(tmp_path)) == 20


async def test_cancelled_append_leaves_the_journal_whole(tmp_path: Path):
    journal = Journal(tmp_path)
    appends = [asyncio.create_task(journal.append(f'{{"n": {number}}}')) for number in range(20)]
    await asyncio.sleep(0)
    for append in appends[::2]:
        append.cancel()
    await asyncio.gather(*appends, return_exceptions=True)
    await journal.append('{"n": 99}')
    await journal.close()
    there = records(tmp_path)
    assert len(there) == len(set(there))
    assert {f'{{"n": {number}}}' for number in (*range(1, 20, 2), 99)} <= set(there)


async def test_full_disk_fails_every_waiting_append_and_leaves_a_journal_that_loads(small_disk: Path):
    journal = Journal(small_disk)
    small = ['{"n": "' + f"{number}".rjust(1000) + '"}' for number in range(8)]
    for text in small:
        await journal.append(text)
    large = ['{"large": "' + f"{number}".rjust(20_000) + '"}' for number in range(16)]
    outcomes = await asyncio.gather(*(journal.append(text) for text in large), return_exceptions=True)
    assert all(isinstance(outcome, JournalError) for outcome in outcomes)
    assert all("No space left on device" in str(outcome) for outcome in outcomes)
    assert records(small_disk) == small
    await journal.append('{"after": 1}')
    await journal.close()

    await Journal(small_disk).close()
    assert records(small_disk) == [*small, '{"after": 1}']


async def test_write_that_cannot_be_undone_stops_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(tmp_path, max_records=3)
    await journal.append('{"n": 1}')

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(journal_module.os, "fsync", broken)
        texts = [f'{{"n": {number}}}' for number in range(2, 12)]
        outcomes = await asyncio.gather(*(journal.append(text) for text in texts), return_exceptions=True)
    assert all(isinstance(outcome, JournalError) for outcome in outcomes)
    assert "Input/output error" in str(outcomes[0])
    with pytest.raises(JournalError, match="could not be undone"):
        await journal.append('{"n": 12}')
    await journal.close()
    await Journal(tmp_path).close()
    assert records(tmp_path)[0] == '{"n": 1}'
    assert '{"n": 11}' not in records(tmp_path)


async def test_event_loop_goes_on_during_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loop = asyncio.get_running_loop()
    ticked = asyncio.Event()

    def slow(_descriptor: int) -> None:
        tick: Any = asyncio.run_coroutine_threadsafe(_set(ticked), loop)
        tick.result(timeout=90)

    monkeypatch.setattr(journal_module.os, "fsync", slow)
    journal = Journal(tmp_path)
    await asyncio.wait_for(journal.append("{}"), 30)
    assert ticked.is_set()
    await journal.close()


async def _set(event: asyncio.Event) -> None:
    event.set()


def batch(*texts: str) -> bytes:
    """Lines of records that share an fsync."""
    lines = [line(text) for text in texts]
    return b"".join([lines[0], *(entry[:8] + b"\t" + entry[9:] for entry in lines[1:])])


async def test_records_that_share_an_fsync_are_marked(tmp_path: Path):
    journal = Journal(tmp_path)
    await journal.append('{"n": 0}')
    texts = [f'{{"n": {number}}}' for number in range(1, 4)]
    await asyncio.gather(*(journal.append(text) for text in texts))
    await journal.close()
    written = (tmp_path / "000001.jsonl").read_bytes()
    assert written.count(b"\n") == 4
    assert written[8:9] == b" "
    assert b"\t" in written


@pytest.mark.parametrize("hole", ["zeros", "text"])
def test_damage_in_the_middle_of_the_last_batch_costs_what_comes_after_it_in_the_batch(
    tmp_path: Path, hole: str, caplog: pytest.LogCaptureFixture
):
    segment, synced = tmp_path / "000001.jsonl", line('{"n": 1}') + batch('{"n": 2}', '{"n": 3}')
    last = batch(*(f'{{"n": {number}}}' for number in range(4, 9)))
    third = len(line('{"n": 4}')) * 2
    damaged = bytes(third + 5) if hole == "zeros" else last[third : third + 5].replace(b"0", b"#") + b"####"
    rest = last[third + 5 :] if hole == "zeros" else last[third + 9 :]
    segment.write_bytes(synced + last[:third] + damaged + rest)
    expected = [f'{{"n": {number}}}'.encode() for number in range(1, 6)]
    assert list(read_segment(segment, torn_tail=True)) == expected
    with caplog.at_level(logging.WARNING):
        Journal(tmp_path)
    assert [record.encode() for record in records(tmp_path)] == expected
    assert "never synced" in caplog.text and "000001.lost" in caplog.text
    assert segment.with_suffix(".lost").read_bytes() == damaged + rest


def test_damage_that_a_later_batch_follows_is_an_error(tmp_path: Path):
    damaged = batch('{"n": 1}', '{"n": 2}', '{"n": 3}').replace(b'"n": 2', b'"n": 7')
    (tmp_path / "000001.jsonl").write_bytes(damaged + line('{"n": 4}'))
    with pytest.raises(JournalCorrupt, match=r"000001\.jsonl, line 2"):
        Journal(tmp_path)


def test_the_last_batch_of_each_writer_may_be_damaged(tmp_path: Path):
    (tmp_path / "000001-w0000000a.jsonl").write_bytes(line('{"n": 1}') + line('{"n": 2}')[:-4])
    (tmp_path / "000002-w0000000b.jsonl").write_bytes(line('{"n": 3}'))
    assert len(Journal(tmp_path, writer="w0000000c").closed_segments()) == 2
    assert records(tmp_path) == ['{"n": 1}', '{"n": 3}']


async def test_what_was_acknowledged_survives_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Everything after the last fsync is dropped page by page, in every order there is of a few pages."""
    acknowledged: list[str] = []
    synced, fsync = [0], os.fsync

    def observed(descriptor: int) -> None:
        fsync(descriptor)
        synced[0] = os.fstat(descriptor).st_size

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", observed)
        journal = Journal(tmp_path / "at work")
        for first in range(0, 12, 4):
            texts = [f'{{"n": {number}, "text": "{"x" * 40}"}}' for number in range(first, first + 4)]
            await asyncio.gather(*(journal.append(text) for text in texts))
            acknowledged += texts
        await journal.close()
    [segment] = list_segments(tmp_path / "at work")
    written = segment.read_bytes()
    unsynced = batch(*(f'{{"n": {number}, "text": "{"y" * 40}"}}' for number in range(12, 17)))
    assert len(written) == synced[0]
    pages = [unsynced[at : at + 64] for at in range(0, len(unsynced), 64)]
    for lost in range(2 ** len(pages)):
        folder = tmp_path / str(lost)
        folder.mkdir()
        left = b"".join(bytes(len(p)) if lost >> n & 1 else p for n, p in enumerate(pages))
        (folder / segment.name).write_bytes(written + left)
        await Journal(folder).close()
        found = records(folder)
        assert found[: len(acknowledged)] == acknowledged
        assert len(found) <= len(acknowledged) + 5
