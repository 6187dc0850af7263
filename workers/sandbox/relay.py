"""Connections from inside of a sandbox to this worker: they come as streams on the one pipe.

The tool host listens where only the sandbox's programs can connect to; no port of the host is open, and a
container needs no network for it. `sandbox_images/tool_host/streams.py` has the protocol. What comes from a
sandbox is untrusted: each frame is checked here, and one that breaks the protocol costs the sandbox.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from workers.sandbox.relay_frames import (
    BODY,
    CREDIT,
    DATA,
    END,
    MAX_STREAMS,
    NUMBER,
    OPEN,
    PIPE_WINDOW,
    PORTS,
    RESET,
    STRAYS,
    frame,
)
from workers.sandbox.relay_transport import PipeCredit, RelayTransport
from workers.sandbox.wire import ProtocolError

__all__ = ["ProtocolFactory", "Relay", "RelayTransport"]

ProtocolFactory = Callable[[], asyncio.BaseProtocol]
"""Makes the protocol of one connection, as `asyncio.loop.create_server` takes it."""


@dataclass
class _Port:
    """A port inside, and its connections."""

    factory: ProtocolFactory
    context: Context
    streams: set[RelayTransport] = field(default_factory=set[RelayTransport])
    is_closed: bool = False


class Relay:
    """The streams of one sandbox.

    Args:
        write: Sends bytes into the sandbox.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._ports: dict[int, _Port] = {}
        self._streams: dict[int, tuple[RelayTransport, _Port]] = {}
        self._last = 0
        self._pipe = PipeCredit()
        self._receivable = PIPE_WINDOW
        self._owed = 0
        self._strays = 0
        self._is_broken = False

    def serve(self, port: int, factory: ProtocolFactory) -> None:
        """Has each connection to a port inside answered by a protocol of its own.

        Callbacks run in a copy of the caller's context variables.
        """
        self._ports[port] = _Port(factory, copy_context())

    def is_served(self, port: int) -> bool:
        """Whether a port is some session's, or has connections still."""
        return port in self._ports and not (self._ports[port].is_closed and not self._ports[port].streams)

    def close(self, port: int) -> None:
        """Resets all connections to a port, and any that is on its way."""
        served = self._ports.get(port)
        if served is not None:
            served.is_closed = True
            for transport in list(served.streams):
                transport.abort()

    def feed(self, body: bytes) -> None:
        """Takes a frame's body.

        Raises:
            ProtocolError: It is in no form, or breaks the protocol.
        """
        if len(body) < BODY.size:
            raise ProtocolError("a frame of a stream that is too short to be one")
        kind, number = BODY.unpack_from(body)
        payload = body[BODY.size :]
        if kind == DATA:
            self._take_data(number, payload)
        elif kind == OPEN and len(payload) == PORTS.size:
            self._open(number, *PORTS.unpack(payload))
        elif kind == CREDIT and len(payload) == NUMBER.size:
            self._take_credit(number, *NUMBER.unpack(payload))
        elif kind in (END, RESET) and not payload:
            transport = self._find(number, kind)
            if transport is not None:
                transport.take_end() if kind == END else transport.take_reset()
        else:
            raise ProtocolError(f"a frame of a stream of kind {kind} with {len(payload)} bytes")

    def break_off(self) -> None:
        """Ends all connections: the sandbox is gone."""
        self._is_broken = True
        for transport, _ in list(self._streams.values()):
            transport.break_off(ConnectionResetError("the sandbox is gone"))

    def _send(self, data: bytes) -> None:
        if not self._is_broken:
            self._write(data)

    def _open(self, number: int, port: int, peer_port: int) -> None:
        served = self._ports.get(port)
        if number <= self._last:
            raise ProtocolError(f"stream {number} begins after stream {self._last}")
        if served is None:
            raise ProtocolError(f"stream {number} is to port {port}, on which no session listens")
        if len(served.streams) >= MAX_STREAMS:
            raise ProtocolError(f"more than {MAX_STREAMS} connections to port {port}")
        self._last = number
        extra = {"peername": ("127.0.0.1", peer_port), "sockname": ("127.0.0.1", port)}
        transport = RelayTransport(number, self._send, self._pipe, served.context, extra, self._forget)
        self._streams[number] = transport, served
        served.streams.add(transport)
        transport.begin(_refuse if served.is_closed else served.factory)

    def _take_data(self, number: int, payload: bytes) -> None:
        self._receivable -= len(payload)
        if self._receivable < 0:
            raise ProtocolError("more bytes of streams than there was credit for")
        transport = self._find(number, DATA)
        assert transport is not None
        transport.take(payload)
        self._owed += len(payload)
        if self._owed >= PIPE_WINDOW // 4:
            self._send(frame(CREDIT, 0, NUMBER.pack(self._owed)))
            self._receivable += self._owed
            self._owed = 0

    def _take_credit(self, number: int, size: int) -> None:
        if number == 0:
            self._pipe.add(size)
            return
        transport = self._find(number, CREDIT)
        if transport is not None:
            transport.take_credit(size)

    def _find(self, number: int, kind: int) -> RelayTransport | None:
        """The stream that a frame belongs to; None: it was under way when both sides were done with it.

        Raises:
            ProtocolError: There is none, and the frame can't have been under way.
        """
        if number in self._streams:
            return self._streams[number][0]
        if kind not in (CREDIT, RESET) or not 0 < number <= self._last or not self._strays:
            raise ProtocolError(f"a frame of kind {kind} for stream {number}, which there is not")
        self._strays -= 1
        return None

    def _forget(self, transport: RelayTransport) -> None:
        _, served = self._streams.pop(transport.number)
        served.streams.discard(transport)
        self._strays += STRAYS


def _refuse() -> asyncio.BaseProtocol:
    raise ConnectionRefusedError("its session is closed")
