import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workers.sandbox.connection
from workers.errors import (
    PortTaken,
    RequestRefused,
    SandboxDied,
    SandboxError,
    SandboxStartError,
    SessionLost,
    SessionSetupError,
    SessionTimeout,
    ToolsetError,
)
from workers.sandbox.connection import Connection
from workers.sandbox.wire import HEADER, MAX_DEPTH, MAX_FRAME, MAX_VALUES, StreamDemultiplexer

pieces = st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.binary(max_size=20)), max_size=10)


class Pipe:
    """A connection, what it wrote, and how often it broke."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.broke = 0
        self.connection = Connection(self._write, self._on_broken)

    def _write(self, data: bytes) -> None:
        assert HEADER.unpack(data[:4])[0] == len(data) - 4
        self.written.append(json.loads(data[4:]))

    def _on_broken(self) -> None:
        self.broke += 1

    def say(self, reply: Any) -> None:
        body = json.dumps(reply).encode()
        self.connection.feed(HEADER.pack(len(body)) + body)

    async def asked(self, op: str = "call", timeout: float = 5.0, **fields: Any) -> "asyncio.Task[Any]":
        """A request that is under way."""
        task = asyncio.create_task(self.connection.request(op, timeout, **fields))
        await asyncio.sleep(0)
        return task


def failure(kind: str, type_: str = "E", trace: str = "") -> dict[str, str]:
    return {"kind": kind, "type": type_, "message": "why", "trace": trace}


async def test_requests_carry_ids_of_their_own_and_replies_may_come_in_any_order() -> None:
    pipe = Pipe()
    requests = [await pipe.asked(number=number) for number in range(5)]
    assert [sent["number"] for sent in pipe.written] == list(range(5))
    for sent in reversed(pipe.written):
        pipe.say({"id": sent["id"], "ok": True, "result": sent["number"]})
    assert await asyncio.gather(*requests) == list(range(5))
    assert len({sent["id"] for sent in pipe.written}) == 5


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("timeout", SessionTimeout),
        ("lost", SessionLost),
        ("capacity", SessionLost),
        ("port", PortTaken),
        ("setup", SessionSetupError),
        ("preload", SandboxStartError),
        ("call", ToolsetError),
        ("anything else", ToolsetError),
    ],
)
async def test_failure_is_an_error_of_its_kind(kind: str, error: type[SandboxError]) -> None:
    pipe = Pipe()
    request = await pipe.asked()
    pipe.say({"id": 1, "ok": False, "error": failure(kind, "ValueError", "line 1\n")})
    with pytest.raises(error, match=r"^ValueError: why\nline 1\n$"):
        await request
    assert pipe.connection.broken is None


async def test_request_that_is_not_answered_in_time_ends_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.sandbox.connection, "GRACE", 0.05)
    pipe = Pipe()
    other = await pipe.asked("open", 60)
    with pytest.raises(SandboxDied, match=r"call was not answered within 0\.1 s"):
        await pipe.connection.request("call", 0.05)
    with pytest.raises(SandboxDied, match="call was not answered"):
        await other
    with pytest.raises(SandboxDied, match="call was not answered"):
        await pipe.connection.request("ping", 1)
    assert pipe.broke == 1


async def test_late_reply_to_a_cancelled_request_is_dropped() -> None:
    pipe = Pipe()
    request, other = await pipe.asked(), await pipe.asked()
    request.cancel()
    await asyncio.wait([request])
    pipe.say({"id": 1, "ok": True, "result": "late"})
    pipe.say({"id": 2, "ok": True, "result": "in time"})
    assert await other == "in time"
    assert pipe.broke == 0


async def test_late_replies_after_the_end_change_nothing() -> None:
    pipe = Pipe()
    request = await pipe.asked()
    pipe.connection.break_off("of a test")
    pipe.say({"id": 1, "ok": True, "result": "late"})
    pipe.connection.break_off("of another reason")
    with pytest.raises(SandboxDied, match="the sandbox died: of a test"):
        await request
    assert pipe.broke == 1


@pytest.mark.parametrize(
    "reply",
    [
        [],
        {"id": 1},
        {"id": "1", "ok": True},
        {"id": 1, "ok": "yes"},
        {"id": 1, "ok": False},
        {"id": 1, "ok": False, "error": {"kind": "call"}},
        {"id": 99, "ok": True},
        {"id": 1, "ok": True, "reward": 1},
    ],
)
async def test_frame_that_is_no_reply_ends_the_sandbox_and_every_request(reply: Any) -> None:
    pipe = Pipe()
    requests = [await pipe.asked() for _ in range(3)]
    pipe.say(reply)
    for request in requests:
        with pytest.raises(SandboxDied, match="it broke the protocol"):
            await request
    assert pipe.broke == 1


async def test_second_first_frame_ends_the_sandbox() -> None:
    pipe = Pipe()
    for _ in range(2):
        pipe.say({"id": 0, "ok": True, "result": {}})
    assert await pipe.connection.hello == {}
    assert pipe.broke == 1


async def test_frame_over_the_limit_ends_the_sandbox() -> None:
    pipe = Pipe()
    request = await pipe.asked()
    pipe.connection.feed(HEADER.pack(MAX_FRAME + 1))
    with pytest.raises(SandboxDied, match="over the limit"):
        await request


async def test_nothing_of_a_broken_sandbox_is_kept() -> None:
    pipe = Pipe()
    pipe.connection.feed(HEADER.pack(MAX_FRAME) + b"x" * 1000)
    pipe.connection.break_off("of a test")
    for _ in range(10):
        pipe.connection.feed(HEADER.pack(MAX_FRAME) + b"x" * 1000)
    assert len(pipe.connection._frames._buffer) == 0
    assert pipe.broke == 1


async def test_request_over_the_limit_is_refused_and_nothing_is_written() -> None:
    pipe = Pipe()
    with pytest.raises(RequestRefused, match=r"call: a request of .* over the limit"):
        await pipe.connection.request("call", 1, text="x" * MAX_FRAME)
    assert (pipe.written, pipe.broke) == ([], 0)


@pytest.mark.parametrize("depth", [MAX_DEPTH, 5_000])
async def test_request_out_of_form_is_called_a_request(depth: int) -> None:
    pipe = Pipe()
    value: Any = []
    for _ in range(depth):
        value = [value]
    with pytest.raises(RequestRefused, match=f"^call: a request nested more than {MAX_DEPTH} levels deep$"):
        await pipe.connection.request("call", 1, value=value)
    with pytest.raises(RequestRefused, match=f"^call: a request of more than {MAX_VALUES} values$"):
        await pipe.connection.request("call", 1, value=[0] * (MAX_VALUES + 1))
    assert (pipe.written, pipe.broke) == ([], 0)


async def test_last_words_are_the_end_of_stderr() -> None:
    pipe = Pipe()
    pipe.connection.feed_stderr(b"x" * 100_000 + "no space left, ü".encode())
    pipe.connection.break_off("it exited")
    assert str(pipe.connection.broken).endswith("xno space left, ü")
    assert len(str(pipe.connection.broken)) < 9_000


@given(pieces=pieces, size=st.integers(1, 12))
def test_docker_stream_is_taken_apart_however_it_is_torn(pieces: list[tuple[int, bytes]], size: int) -> None:
    stream = b"".join(bytes([number, 0, 0, 0]) + HEADER.pack(len(data)) + data for number, data in pieces)
    demultiplexer = StreamDemultiplexer()
    received: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    for start in range(0, len(stream), size):
        for name, data in demultiplexer.feed(stream[start : start + size]):
            received[name] += data
    assert received["stderr"] == b"".join(data for number, data in pieces if number == 2)
    assert received["stdout"] == b"".join(data for number, data in pieces if number != 2)
