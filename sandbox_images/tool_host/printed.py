"""What a session's toolset prints: it goes to the worker with the session's next reply, up to a limit."""

import io
import sys
from typing import Any, TextIO

from sandbox_images.tool_host import wire

_MOST = 32_768
"""Characters of one session that are sent; the rest is only printed."""
_said: list[str] = []
_room = _MOST


class _Listener(io.TextIOBase):
    """A stream that is written through, and whose text is kept."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        global _room
        if _room > 0:
            _said.append(text[:_room])
            _room -= len(text)
            if _room <= 0:
                _said.append("\n[more was printed, and is not kept]")
        return self._stream.write(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def listen() -> None:
    """Keeps what this process prints from now on."""
    sys.stdout, sys.stderr = _Listener(sys.stdout), _Listener(sys.stderr)


def framed(reply: dict[str, Any]) -> bytes:
    """A reply as a frame, with what was printed since the one before, where there is room for it.

    Raises:
        WireError: The reply itself is no frame.
    """
    said = "".join(_said)
    _said.clear()
    if said:
        try:
            return wire.encode({**reply, "printed": said})
        except wire.WireError:
            pass
    return wire.encode(reply)
