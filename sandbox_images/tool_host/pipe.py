"""The tool host's end of the pipe to the worker."""

import os
import selectors
from collections.abc import Callable
from typing import Any

from sandbox_images.tool_host import wire


class WorkerPipe:
    """Frames in, frames out; neither end ever waits for the other.

    Args:
        selector: What the tool host waits on.
        reader: Descriptor that requests come from.
        writer: Descriptor that replies go to.
        handle: Is given each request, and the bytes that it came as.
        on_stream: Is given the body of each frame of a connection's stream.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        reader: int,
        writer: int,
        handle: Callable[[dict[str, Any], bytes], None],
        on_stream: Callable[[bytes], None],
    ) -> None:
        self._selector = selector
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._frames = wire.FrameBuffer(on_stream=on_stream)
        self._outgoing = bytearray()

    def open(self) -> None:
        """Begins to listen. Callbacks of the selector raise `EOFError` when the worker has hung up."""
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector.register(self._reader, selectors.EVENT_READ, self._read)

    def reply(self, message: dict[str, Any]) -> None:
        """Queues a frame for the worker."""
        self.send(wire.encode(message))

    def send(self, frame: bytes) -> None:
        """Queues a frame that is one already."""
        self._outgoing += frame

    def flush(self) -> None:
        """Writes what the worker takes now, and sees to it that the rest follows.

        Raises:
            EOFError: The worker has hung up.
        """
        if self._outgoing:
            self._write(0)

    def _read(self, _: int) -> None:
        try:
            data = os.read(self._reader, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        for body in self._frames.feed(data):
            self._handle(wire.decode(body), body)

    def _write(self, _: int) -> None:
        try:
            written = os.write(self._writer, self._outgoing)
            del self._outgoing[:written]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            raise EOFError from None
        registered = self._writer in self._selector.get_map()
        if self._outgoing and not registered:
            self._selector.register(self._writer, selectors.EVENT_WRITE, self._write)
        elif not self._outgoing and registered:
            self._selector.unregister(self._writer)
