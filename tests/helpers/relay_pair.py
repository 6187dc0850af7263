"""Both sides of the relay in one process, with a pipe between them that a test moves on by itself."""

import selectors
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox_images.tool_host import wire as host_wire
from sandbox_images.tool_host.relay import Relay as HostRelay
from workers.sandbox import wire as worker_wire
from workers.sandbox.relay import ProtocolFactory
from workers.sandbox.relay import Relay as WorkerRelay


class RelayPair:
    """A worker's relay and a tool host's, which listens on Unix sockets only."""

    PORT = 61_000

    def __init__(self, factory: ProtocolFactory) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="kumite-relay-")
        self.selector = selectors.DefaultSelector()
        self.to_host, self.to_worker = bytearray(), bytearray()
        self.worker = WorkerRelay(self.to_host.extend)
        self.host = HostRelay(self.selector, self.to_worker.extend, Path(self.folder.name))
        self._host_frames = host_wire.FrameBuffer(on_stream=self.host.handle)
        self._worker_frames = worker_wire.FrameBuffer(self.worker.feed)
        self.worker.serve(self.PORT, factory)
        self.port = _free_port()
        wanted: list[dict[str, Any]] = [{"port": self.port, "socket": "SOCKET"}]
        self.path = self.host.listen("s", wanted, None)["SOCKET"]
        for session in self.host._sessions.values():
            session.listeners = dict.fromkeys(session.listeners, self.PORT)

    def connect(self) -> socket.socket:
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        end.connect(self.path)
        return end

    def turn(self, most: int = 1 << 20) -> bool:
        """One round of both event loops; whether anything has moved."""
        moved = False
        for key, events in self.selector.select(0):
            callback: Callable[[int], None] = key.data
            callback(events)
            moved = True
        self.host.wake_listeners()
        for frames, queue in ((self._worker_frames, self.to_worker), (self._host_frames, self.to_host)):
            data = bytes(queue[:most])
            del queue[:most]
            moved = moved or bool(data)
            assert list(frames.feed(data)) == []
        return moved

    def close(self) -> None:
        self.host.close("s")
        self.selector.close()
        self.folder.cleanup()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
