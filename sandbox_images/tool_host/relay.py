"""The listeners of sessions, and their connections' streams on the worker's pipe: see `streams`."""

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sandbox_images.tool_host import wire
from sandbox_images.tool_host.streams import (
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
    PipeCredit,
    Stream,
    frame,
)

_ADDRESS = "127.0.0.1"
_MOST_STREAMS = 1024
"""Most streams of all sessions: each takes a descriptor, of which a container has 4,096."""
_BACKLOG = 128
_ACCEPTS_AT_ONCE = 16
"""Connections of one listener that are taken before others have their turn."""
_RATE = 256.0
"""Connections of one session that are taken in a second, when it has had `MAX_STREAMS` at once: a program
that connects and hangs up without end costs the worker no more."""
_REST = 0.05
"""Seconds after which a listener that has had too many is looked at again."""


@dataclass
class Session:
    """What one session listens on, and its connections."""

    listeners: dict[socket.socket, int] = field(default_factory=dict[socket.socket, int])
    """The port that each stands for."""
    paths: list[Path] = field(default_factory=list[Path])
    streams: set[Stream] = field(default_factory=set[Stream])
    allowed: float = MAX_STREAMS
    counted_at: float = field(default_factory=time.monotonic)
    is_resting: bool = False


class Relay:
    """Listens for sessions, and carries their connections.

    Args:
        selector: What the tool host waits on.
        send: Queues a frame for the worker.
        folder: Where Unix sockets are made.
    """

    def __init__(self, selector: selectors.BaseSelector, send: Callable[[bytes], None], folder: Path) -> None:
        self._selector = selector
        self._send = send
        self._folder = folder
        self._sessions: dict[str, Session] = {}
        self._streams: dict[int, Stream] = {}
        self._owners: dict[Stream, Session] = {}
        self._last = 0
        self._pipe = PipeCredit()
        self._received = 0

    @property
    def patience(self) -> float | None:
        """Seconds after which to `wake_listeners`. None: none rests."""
        return _REST if any(session.is_resting for session in self._sessions.values()) else None

    def listen(self, name: str, wanted: list[dict[str, Any]], owner: int | None) -> dict[str, str]:
        """Begins to listen for a session.

        Args:
            name: The session.
            wanted: Listeners: each a `port` of the loopback interface, and in `socket` the name of the
                variable that is to tell of a Unix socket, or null.
            owner: User id who alone may connect to Unix sockets; None: the tool host's.

        Returns:
            Environment variables for the session.

        Raises:
            OSError: The session can't have a port.
        """
        variables: dict[str, str] = {}
        session = self._sessions[name] = Session()
        try:
            for each in wanted:
                port = each["port"]
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                session.listeners[listener] = port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((_ADDRESS, port))
                if each["socket"] is not None:
                    path = self._folder / f".gateway-{port}.sock"
                    if _fits(path):
                        self._bind(session, path, port, owner)
                        variables[each["socket"]] = str(path)
            for listener in session.listeners:
                listener.setblocking(False)
                listener.listen(_BACKLOG)
                self._watch(session, listener)
        except OSError:
            self.close(name)
            raise
        return variables

    def close(self, name: str) -> None:
        """Ends a session's listeners and streams."""
        session = self._sessions.pop(name, None)
        if session is None:
            return
        self._rest(session)
        session.is_resting = False
        for listener in session.listeners:
            listener.close()
        for path in session.paths:
            with suppress(OSError):
                path.unlink()
        for stream in list(session.streams):
            stream.reset()

    def wake_listeners(self) -> None:
        """Has listeners go on that have rested."""
        for session in self._sessions.values():
            if session.is_resting and self._may_take(session):
                session.is_resting = False
                try:
                    for listener in session.listeners:
                        self._watch(session, listener)
                except OSError:  # as in `_accept`
                    self._rest(session)

    def handle(self, body: bytes) -> None:
        """Takes a frame of the worker's.

        Raises:
            WireError: It is in no form, or breaks the protocol.
        """
        if not self._take(body):
            raise wire.WireError(f"a frame of a stream that breaks the protocol: {body[:16].hex()}")

    def _take(self, body: bytes) -> bool:
        if len(body) < BODY.size:
            return False
        kind, number = BODY.unpack_from(body)
        payload = body[BODY.size :]
        if kind == DATA:
            self._count(len(payload))
        if (kind == CREDIT) != (len(payload) == NUMBER.size) and kind != DATA:
            return False
        if kind == CREDIT and number == 0:
            return self._pipe.add(NUMBER.unpack(payload)[0])
        stream = self._streams.get(number)
        if stream is None:
            return kind in (RESET, CREDIT) and 0 < number <= self._last
        if kind == DATA:
            return stream.take(payload)
        if kind == END:
            return stream.take_end()
        if kind == CREDIT:
            return stream.take_credit(NUMBER.unpack(payload)[0])
        if kind == RESET:
            stream.take_reset()
            return True
        return False

    def _count(self, size: int) -> None:
        """Gives the worker credit for what has come out of the pipe."""
        self._received += size
        if self._received >= PIPE_WINDOW // 4:
            self._send(frame(CREDIT, 0, NUMBER.pack(self._received)))
            self._received = 0

    def _bind(self, session: Session, path: Path, port: int, owner: int | None) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        session.listeners[listener] = port
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        session.paths.append(path)
        path.chmod(0o600)
        if owner is not None:
            os.chown(path, owner, owner)

    def _watch(self, session: Session, listener: socket.socket) -> None:
        self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, session, listener))

    def _accept(self, session: Session, listener: socket.socket, _: int) -> None:
        for _turn in range(_ACCEPTS_AT_ONCE):
            if session.is_resting or listener.fileno() < 0:
                return
            if not self._may_take(session):
                self._rest(session)
                return
            try:
                end, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError:  # for want of descriptors or memory, or because the peer is gone already
                session.allowed = 0.0
                self._rest(session)
                return
            session.allowed -= 1
            self._begin(session, session.listeners[listener], end, peer)

    def _begin(self, session: Session, port: int, end: socket.socket, peer: Any) -> None:
        peer_port = 0
        if end.family == socket.AF_INET:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer_port = peer[1]
        self._last += 1
        stream = Stream(self._last, end, self._selector, self._send, self._pipe, self._forget)
        self._streams[self._last] = stream
        self._owners[stream] = session
        session.streams.add(stream)
        self._send(frame(OPEN, self._last, PORTS.pack(port, peer_port)))
        stream.go_on()

    def _forget(self, stream: Stream) -> None:
        del self._streams[stream.number]
        self._owners.pop(stream).streams.discard(stream)

    def _may_take(self, session: Session) -> bool:
        now = time.monotonic()
        earned = (now - session.counted_at) * _RATE
        session.allowed, session.counted_at = min(MAX_STREAMS, session.allowed + earned), now
        has_room = len(session.streams) < MAX_STREAMS and len(self._streams) < _MOST_STREAMS
        return has_room and session.allowed >= 1

    def _rest(self, session: Session) -> None:
        if session.is_resting:
            return
        session.is_resting = True
        for listener in session.listeners:
            with suppress(KeyError, ValueError):
                self._selector.unregister(listener)


def _fits(path: Path) -> bool:
    """Whether a path is short enough for a Unix socket."""
    return len(os.fsencode(path)) < 108
