"""The relay's protocol: random frames to either side, and random traffic between the two."""

import asyncio
import contextlib
import hashlib
import random
import selectors
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_images.tool_host import streams
from sandbox_images.tool_host.relay import Relay as HostRelay
from sandbox_images.tool_host.relay import Session as RelaySession
from sandbox_images.tool_host.wire import FrameBuffer as HostFrames
from sandbox_images.tool_host.wire import WireError
from tests.helpers.relay_pair import RelayPair
from workers.sandbox import relay_frames, wire
from workers.sandbox.relay import Relay, RelayTransport

PORT = 61_000
bodies = st.one_of(
    st.binary(max_size=20),
    st.builds(
        lambda kind, number, payload: struct.pack(">BI", kind, number) + payload,
        st.integers(0, 7),
        st.integers(0, 5),
        st.one_of(
            st.just(b""),
            st.just(struct.pack(">HH", PORT, 1)),
            st.integers(0, 70_000).map(lambda number: struct.pack(">I", number)),
            st.integers(1, 16_384).map(bytes),
        ),
    ),
)


class Recorder(asyncio.Protocol):
    """Notes what a transport tells; does at random what protocols do."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.chance = chance or random.Random(0)
        self.told: list[str] = []
        self.received = hashlib.sha256()
        self.size = 0
        self.transport: RelayTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, RelayTransport)
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert self.told[0] == "made" and "lost" not in self.told and "end" not in self.told
        self.received.update(data)
        self.size += len(data)

    def eof_received(self) -> bool:
        self.told.append("end")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        assert "lost" not in self.told
        self.told.append("lost")


def test_both_sides_have_the_same_protocol() -> None:
    for name in ("OPEN", "DATA", "END", "RESET", "CREDIT", "CHUNK", "WINDOW", "PIPE_WINDOW", "MAX_STREAMS"):
        assert getattr(streams, name) == getattr(relay_frames, name), name
    assert streams.MARK == wire.MARK and streams.MAX_BODY == wire.MAX_STREAM_BODY
    assert streams.frame(2, 7, b"x") == relay_frames.frame(2, 7, b"x")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(bodies, max_size=30))
async def test_whatever_a_sandbox_sends_is_taken_or_breaks_the_protocol(frames: list[bytes]) -> None:
    written = bytearray()
    relay = Relay(written.extend)
    relay.serve(PORT, Recorder)
    with contextlib.suppress(wire.ProtocolError):
        for body in frames:
            relay.feed(body)
    assert len(relay._streams) <= relay_frames.MAX_STREAMS
    relay.break_off()
    assert relay._streams == {}
    await asyncio.sleep(0)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(bodies, max_size=30), st.integers(0, 3))
def test_whatever_a_worker_sends_is_taken_or_breaks_the_protocol(frames: list[bytes], opened: int) -> None:
    with selectors.DefaultSelector() as selector:
        relay = HostRelay(selector, bytearray().extend, Path("/nowhere"))
        ends = [socket.socketpair() for _ in range(opened)]
        session = relay._sessions["s"] = RelaySession()
        for ours, _ in ends:
            relay._begin(session, PORT, ours, None)
        with contextlib.suppress(WireError):
            for body in frames:
                relay.handle(body)
                for key, events in selector.select(0):
                    key.data(events)
        relay.close("s")
        for ours, theirs in ends:
            assert ours.fileno() < 0
            theirs.close()
        assert not selector.get_map()


def test_a_session_may_send_no_frames_of_streams() -> None:
    """Its own channel to the tool host takes JSON only."""
    with pytest.raises(WireError, match="over the limit"):
        list(HostFrames().feed(streams.frame(streams.DATA, 1, b"x")))


@pytest.mark.parametrize(
    "body",
    [
        relay_frames.frame(relay_frames.DATA, 1, b"x"),
        relay_frames.frame(relay_frames.CREDIT, 0, struct.pack(">I", 1)),
        relay_frames.frame(relay_frames.CREDIT, 1, struct.pack(">I", 1)),
        relay_frames.frame(relay_frames.OPEN, 1, struct.pack(">HH", PORT + 1, 0)),
        relay_frames.frame(relay_frames.OPEN, 0, struct.pack(">HH", PORT, 0)),
        relay_frames.frame(9, 1),
    ],
)
async def test_a_breach_of_the_protocol_is_told_as_one(body: bytes) -> None:
    relay = Relay(lambda _: None)
    relay.serve(PORT, Recorder)
    with pytest.raises(wire.ProtocolError):
        relay.feed(body[4:])


async def test_more_than_the_credit_is_a_breach() -> None:
    relay = Relay(lambda _: None)
    recorders: list[Recorder] = []

    def make() -> Recorder:
        recorders.append(Recorder())
        return recorders[-1]

    relay.serve(PORT, make)
    relay.feed(relay_frames.frame(relay_frames.OPEN, 1, struct.pack(">HH", PORT, 0))[4:])
    recorders[0].transport.pause_reading()
    data = relay_frames.frame(relay_frames.DATA, 1, bytes(relay_frames.CHUNK))[4:]
    for _ in range(relay_frames.WINDOW // relay_frames.CHUNK):
        relay.feed(data)
    with pytest.raises(wire.ProtocolError, match="may not be sent"):
        relay.feed(data)


async def test_more_connections_than_there_may_be_are_a_breach() -> None:
    relay = Relay(lambda _: None)
    relay.serve(PORT, Recorder)
    begin = [
        relay_frames.frame(relay_frames.OPEN, number, struct.pack(">HH", PORT, 0))[4:]
        for number in range(1, relay_frames.MAX_STREAMS + 2)
    ]
    for body in begin[:-1]:
        relay.feed(body)
    with pytest.raises(wire.ProtocolError, match="more than 256 connections"):
        relay.feed(begin[-1])


class Program:
    """A program in the sandbox that does at random what programs do with a connection."""

    def __init__(self, end: socket.socket, chance: random.Random) -> None:
        self.end = end
        self.chance = chance
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.sent_size = self.received_size = 0
        self.ended = self.got_end = self.was_reset = self.closed = False

    def act(self, is_hasty: bool) -> None:
        if self.closed or self.was_reset:
            return
        try:
            if self.chance.random() < 0.6 and not self.ended:
                data = self.chance.randbytes(self.chance.choice([1, 100, 5_000, 60_000]))
                size = self.end.send(data)
                self.sent.update(data[:size])
                self.sent_size += size
            if self.chance.random() < 0.5:
                self.read()
            if self.chance.random() < 0.02 and not self.ended:
                self.end.shutdown(socket.SHUT_WR)
                self.ended = True
        except BlockingIOError:
            pass
        except OSError:
            self.was_reset = True
        if is_hasty and self.chance.random() < 0.01:
            self.end.close()
            self.closed = True

    def read(self) -> bool:
        """Reads something; whether there was anything."""
        if self.closed or self.was_reset or self.got_end:
            return False
        try:
            data = self.end.recv(self.chance.choice([1, 1_000, 100_000]))
        except BlockingIOError:
            return False
        except OSError:
            self.was_reset = True
            return False
        self.received.update(data)
        self.received_size += len(data)
        self.got_end = not data
        return bool(data)


@pytest.mark.parametrize("seed", range(8))
async def test_bytes_arrive_as_they_were_sent_whatever_the_ends_do(seed: int) -> None:
    """Two programs in three only half-close, and all that either side sends must arrive at the other."""
    chance = random.Random(seed)
    recorders: list[Recorder] = []

    def make() -> Recorder:
        recorders.append(Recorder(chance))
        return recorders[-1]

    pair = RelayPair(make)
    programs: list[tuple[Program, bool]] = []
    written: dict[Recorder, hashlib._Hash] = {}
    sizes: dict[Recorder, int] = {}
    try:
        for _ in range(600):
            if len(programs) < 6 and chance.random() < 0.1:
                programs.append((Program(pair.connect(), chance), chance.random() < 0.33))
            for program, is_hasty in programs:
                program.act(is_hasty)
            pair.turn(chance.choice([1, 37, 20_000, 1 << 20]))
            await asyncio.sleep(0)
            for recorder in recorders:
                transport = recorder.transport
                action = chance.random()
                if action < 0.1:
                    transport.pause_reading()
                elif action < 0.3:
                    transport.resume_reading()
                elif action < 0.6 and not transport.is_closing() and transport.get_write_buffer_size() < 1e6:
                    data = chance.randbytes(chance.choice([1, 300, 40_000, 200_000]))
                    with contextlib.suppress(RuntimeError):  # after write_eof
                        transport.write(data)
                        written.setdefault(recorder, hashlib.sha256()).update(data)
                        sizes[recorder] = sizes.get(recorder, 0) + len(data)
        for recorder in recorders:  # all come to their end
            recorder.transport.resume_reading()
            recorder.transport.write_eof()
        for program, _ in programs:
            with contextlib.suppress(OSError):
                program.end.shutdown(socket.SHUT_WR)
            program.ended = True
        for _ in range(100_000):
            moved = pair.turn()
            await asyncio.sleep(0)
            if not sum(program.read() for program, _ in programs) and not moved:
                break
        for recorder in recorders:
            recorder.transport.close()
        for _ in range(20):
            pair.turn()
            await asyncio.sleep(0)
        assert pair.worker._streams == {} and pair.host._streams == {}
        for (program, is_hasty), recorder in zip(programs, recorders, strict=True):
            assert recorder.told[-1] == "lost"
            if not is_hasty:
                assert recorder.size == program.sent_size
                assert recorder.received.digest() == program.sent.digest()
                assert program.received_size == sizes.get(recorder, 0)
                assert program.received.digest() == written.get(recorder, hashlib.sha256()).digest()
    finally:
        for program, _ in programs:
            program.end.close()
        pair.close()
