"""Frames of connections' streams; `sandbox_images/tool_host/streams.py` has the protocol."""

import struct

from workers.sandbox.wire import HEADER, MARK

BODY = struct.Struct(">BI")
PORTS = struct.Struct(">HH")
NUMBER = struct.Struct(">I")
OPEN, DATA, END, RESET, CREDIT = 1, 2, 3, 4, 5
CHUNK = 16_384
"""Most bytes of one DATA frame."""
WINDOW = 65_536
"""Bytes of a stream that may be sent ahead of CREDIT."""
PIPE_WINDOW = 262_144
"""The same of all streams together."""
MAX_STREAMS = 256
"""Most streams of a session at a time."""
STRAYS = 4
"""Most frames of a stream that may come when this side is done with it: one RESET, and CREDIT under way."""


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return HEADER.pack(BODY.size + len(payload) | MARK) + BODY.pack(kind, stream) + payload
