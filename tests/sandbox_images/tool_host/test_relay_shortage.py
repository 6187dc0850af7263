"""The tool host's relay when the kernel has no room left for one more thing to watch."""

import errno
import selectors
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox_images.tool_host.relay import Relay
from sandbox_images.tool_host.streams import BODY, FRAME, OPEN, RESET


class Full(selectors.DefaultSelector):
    """Takes nothing more while it is full."""

    is_full = False

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no more to be watched")
        return super().register(fileobj, events, data)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_connection_that_cannot_be_watched_is_reset_and_the_next_is_served(tmp_path: Path) -> None:
    selector, frames, port = Full(), list[bytes](), free_port()
    relay = Relay(selector, frames.append, tmp_path)
    relay.listen("session", [{"port": port, "socket": None}], None)

    def serve() -> list[int]:
        frames.clear()
        for key, events in selector.select(30.0):
            key.data(events)
        return [FRAME.unpack_from(frame)[1] for frame in frames]

    with socket.create_connection(("127.0.0.1", port), timeout=30.0) as end:
        selector.is_full = True
        assert serve() == [OPEN, RESET]
        relay.handle(BODY.pack(RESET, 1))
        with suppress(ConnectionResetError):
            assert end.recv(1) == b""
    selector.is_full = False
    with socket.create_connection(("127.0.0.1", port), timeout=30.0):
        assert serve() == [OPEN]
    relay.close("session")


def test_a_listener_that_cannot_be_watched_again_is_looked_at_later(tmp_path: Path) -> None:
    selector, port = Full(), free_port()
    relay = Relay(selector, lambda _: None, tmp_path)
    relay.listen("session", [{"port": port, "socket": None}], None)
    relay._rest(relay._sessions["session"])
    selector.is_full = True
    relay.wake_listeners()
    assert relay.patience is not None
    selector.is_full = False
    relay.wake_listeners()
    assert relay.patience is None
    relay.close("session")
