"""Frames: a 4-byte big-endian length, then one JSON object in UTF-8."""

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any, cast

HEADER = struct.Struct(">I")
MAX_FRAME = 32 * 1024 * 1024
"""Largest frame either side accepts, in bytes."""
MAX_DEPTH = 100
"""Deepest nesting either side accepts: well within what both of their JSON parsers can take."""
_FAILURE = {"kind", "type", "message", "trace"}


class WireError(Exception):
    """The peer sent something that is no frame. It can't be resynchronised: the peer is done for."""


def encode(message: dict[str, Any]) -> bytes:
    """One frame, ready to be written. A lone surrogate, which UTF-8 cannot say, becomes a `?`."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    if len(body) > MAX_FRAME:
        raise WireError(f"frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return HEADER.pack(len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The object in a frame's body.

    Raises:
        WireError: It is no JSON object, or is nested too deeply to be one of ours.
    """
    try:
        message = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise WireError(f"a frame must hold an object, got {type(message).__name__}")
    return message


def decode_reply(body: bytes) -> dict[str, Any]:
    """The reply in a frame's body, in the form in which the worker takes it.

    Raises:
        WireError: It is none. The worker would take the whole sandbox for dead.
    """
    reply = decode(body)
    error = reply.get("error")
    if type(reply.get("id")) is not int or type(reply.get("ok")) is not bool:
        raise WireError("a reply needs an id and an ok")
    if not reply.keys() <= {"id", "ok", "result", "error"}:
        raise WireError(f"a reply with more than it may have: {', '.join(reply)!r:.80}")
    if not (reply["ok"] and error is None) and not (
        isinstance(error, dict)
        and error.keys() == _FAILURE
        and all(isinstance(said, str) for said in error.values())
    ):
        raise WireError("a failure that does not say why")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _too_deep(reply):
        raise WireError(f"a reply nested more than {MAX_DEPTH} levels deep")
    return reply


def _too_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inside = [part for one in level for part in _parts(one)]
        level = [part for part in inside if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    return cast("dict[str, Any]", value).values() if isinstance(value, dict) else value


class FrameBuffer:
    """Cuts a stream of bytes into frame bodies."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes what was read, yields each body that is complete by now.

        Raises:
            WireError: A frame announces more than the limit.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > self._max_frame:
                raise WireError(f"frame of {length} bytes is over the limit of {self._max_frame}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield body
