"""The tool host's end of the socket to one session."""

import selectors
import socket
from collections.abc import Callable

from sandbox_images.tool_host import wire

_CHUNK = 1 << 18


class Channel:
    """Frames to a session and from it; the tool host never waits for it.

    Args:
        selector: What the tool host waits on.
        end: The socket.
        forward: Is given the body of each frame; raises `wire.WireError` at one that must not be.
        over: Is told why no more can come, in words and as the kind of a failure.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        end: socket.socket,
        forward: Callable[[bytes], None],
        over: Callable[[str, str], None],
    ) -> None:
        end.setblocking(False)
        self._selector = selector
        self._end = end
        self._forward = forward
        self._over = over
        self._frames = wire.FrameBuffer()
        self._received = 0
        self._outgoing = bytearray()
        selector.register(end, selectors.EVENT_READ, self._serve)

    def send(self, body: bytes) -> None:
        """Queues a frame, and writes what the session takes now."""
        self._outgoing += wire.HEADER.pack(len(body)) + body
        self._write()

    def drain(self) -> None:
        """Reads what a dead session said last. A descendant that holds its socket open gets no more."""
        before = -1
        while self._end.fileno() >= 0 and self._received != before:
            before = self._received
            self._serve(selectors.EVENT_READ)
        self._hang_up("its process ended by itself")

    def _serve(self, events: int) -> None:
        """Reads and writes. Whatever goes wrong with what a session sends costs that session."""
        try:
            if events & selectors.EVENT_WRITE:
                self._write()
            if events & selectors.EVENT_READ:
                self._read()
        except Exception as error:  # noqa: BLE001 - for want of memory, say: no other session is to notice
            self._hang_up(f"what it sent could not be taken: {type(error).__name__}: {error}", "protocol")

    def _read(self) -> None:
        try:
            data = self._end.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += len(data)
        try:
            for body in self._frames.feed(data):
                self._forward(body)
        except wire.WireError as error:
            self._hang_up(f"it broke the protocol: {error}", "protocol")
        if not data:
            self._hang_up("its process ended by itself")

    def _write(self) -> None:
        try:
            sent = self._end.send(self._outgoing)
            del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:  # it takes no more: its end, or its time limit, will settle what is pending
            self._outgoing.clear()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        key = self._selector.get_map().get(self._end)
        if key is not None and key.events != wanted:
            self._selector.modify(self._end, wanted, key.data)

    def _hang_up(self, cause: str, kind: str = "lost") -> None:
        if self._end.fileno() >= 0:
            self._selector.unregister(self._end)
            self._end.close()
        self._frames.clear()
        self._over(cause, kind)
