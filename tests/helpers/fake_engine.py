"""A Docker engine that fails on demand: it forwards all to the real one but what a test picks out."""

import json
import re
import socket
import socketserver
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal

REAL = "/var/run/docker.sock"
CREATE = r"POST /v[\d.]+/containers/create"
START = r"POST /v[\d.]+/containers/\w+/start"


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Listens on a socket of its own while the `with` block lasts.

    Args:
        path: The socket.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Connection)
        self._path = path
        self.url = f"unix://{path}"
        self.released = threading.Event()
        """Set to let requests through that hang."""
        self.most_at_once = 0
        """Most creations that were under way at a time."""
        self._fault: tuple[str, Literal["hang"] | str] | None = None
        self._under_way = 0
        self._lock = threading.Lock()
        self._serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> "FakeEngine":
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self._serving.join(10)
        self.server_close()
        self._path.unlink()

    def hang_on(self, pattern: str) -> None:
        self._fault = (pattern, "hang")

    def fail_on(self, pattern: str, message: str) -> None:
        self._fault = (pattern, message)

    def heal(self) -> None:
        self._fault = None
        self.released.set()

    def fault_of(self, line: str) -> str | None:
        if self._fault is not None and re.match(self._fault[0], line):
            return self._fault[1]
        return None

    def note_creation(self, change: int) -> None:
        with self._lock:
            self._under_way += change
            self.most_at_once = max(self.most_at_once, self._under_way)


class _Connection(socketserver.BaseRequestHandler):
    server: FakeEngine
    request: socket.socket

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.request.recv(65536)
            if not data:
                return
            head += data
        line = head.split(b"\r\n", 1)[0].decode()
        fault = self.server.fault_of(line)
        if fault == "hang":
            self.server.released.wait(120)
        elif fault is not None:
            body = json.dumps({"message": fault}).encode()
            head_back = f"HTTP/1.1 500 Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            self.request.sendall(f"{head_back}\r\nConnection: close\r\n\r\n".encode() + body)
            return
        creates = re.match(CREATE, line) is not None
        if creates:
            self.server.note_creation(1)
        try:
            self._forward(head)
        finally:
            if creates:
                self.server.note_creation(-1)

    def _forward(self, head: bytes) -> None:
        hijacked = b"upgrade: tcp" in head.lower()
        if not hijacked:  # one request to a connection, so that each is seen
            start, _, rest = head.partition(b"\r\n")
            kept = re.sub(rb"(?i)^connection:[^\r]*\r\n", b"", rest, flags=re.MULTILINE)
            head = start + b"\r\nConnection: close\r\n" + kept
        with socket.socket(socket.AF_UNIX) as real:
            real.connect(REAL)
            real.sendall(head)
            # A client that hangs up from a hijacked stream has gone altogether.
            how = socket.SHUT_RDWR if hijacked else socket.SHUT_WR
            up = threading.Thread(target=_pump, args=(self.request, real, how))
            up.start()
            _pump(real, self.request)
            for end in (self.request, real):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            up.join(30)


def _pump(source: socket.socket, sink: socket.socket, how: int = socket.SHUT_WR) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(how)
