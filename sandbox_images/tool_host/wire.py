"""Frames: a 4-byte big-endian length, then one JSON object in UTF-8."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

from sandbox_images.tool_host.streams import MARK, MAX_BODY

HEADER = struct.Struct(">I")
MAX_FRAME = 32 * 1024 * 1024
"""Largest frame either side accepts, in bytes."""
MAX_DEPTH = 100
"""Deepest nesting either side accepts: well within what both of their JSON parsers can take."""
MAX_VALUES = 400_000
"""Most values either side accepts in a frame: to parse them takes a fraction of a second."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A string, to its end or that of the text: so that no text is gone through more than once. Nothing that was
taken is given back (`*+`): to be able to, `re` keeps 80 bytes for each byte of a text of escapes."""
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_FAILURE = {"kind", "type", "message", "trace"}


class WireError(Exception):
    """The peer sent something that is no frame. It can't be resynchronised: the peer is done for."""


def encode(message: dict[str, Any]) -> bytes:
    """One frame, ready to be written. A lone surrogate, which UTF-8 cannot say, becomes a `?`.

    Raises:
        WireError: It is larger, or nested deeper, than the worker takes.
    """
    body = text(message)
    if len(body) > MAX_FRAME:
        raise WireError(f"frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    check_form(body)
    return HEADER.pack(len(body)) + body


def text(value: Any) -> bytes:
    """A value as JSON text, as it is within a frame.

    Raises:
        WireError: It is nested deeper than a stack.
    """
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    except RecursionError as error:
        raise WireError(f"frame nested more than {MAX_DEPTH} levels deep") from error


def decode(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The object in a frame's body.

    Raises:
        WireError: It is no JSON object, or is nested too deeply to be one of ours.
    """
    try:
        message = json.loads(_as_utf8(bytes(body)))
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error
    if not isinstance(message, dict):
        raise WireError(f"a frame must hold an object, got {type(message).__name__}")
    return cast(dict[str, Any], message)


def relay(body: bytes) -> tuple[int, bytes, str | None]:
    """A reply: its id, the frame in the form in which the worker takes it, and the kind of failure, if any.

    Raises:
        WireError: It is none. The worker would take the whole sandbox for dead.
    """
    reply = _decode_reply(body)
    kind = None if reply["ok"] else reply["error"]["kind"]
    return reply["id"], HEADER.pack(len(body)) + body if _is_plain(body) else encode(reply), kind


def _is_plain(body: bytes) -> bool:
    """Whether JSON text is UTF-8 without a doubt, and says nothing that UTF-8 could not."""
    if not body.startswith(b'{"') or b"\\u" in body:
        return False
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decode_reply(body: bytes) -> dict[str, Any]:
    reply = decode(body)
    error: Any = reply.get("error")
    if type(reply.get("id")) is not int or type(reply.get("ok")) is not bool:
        raise WireError("a reply needs an id and an ok")
    if not reply.keys() <= {"id", "ok", "result", "error", "printed"}:
        raise WireError(f"a reply with more than it may have: {', '.join(reply)!r:.80}")
    if not isinstance(reply.get("printed", ""), str):
        raise WireError("what a session has printed is no text")
    if not (reply["ok"] and error is None) and not (
        isinstance(error, dict)
        and error.keys() == _FAILURE
        and all(isinstance(said, str) for said in cast(dict[str, Any], error).values())
    ):
        raise WireError("a failure that does not say why")
    return reply


def _as_utf8(body: bytes) -> bytes:
    """JSON text in UTF-8, whose form has been looked at; it may come in any encoding that JSON allows."""
    encoding = json.detect_encoding(body)
    if encoding != "utf-8":
        body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    check_form(body)
    return body


def check_form(body: bytes) -> None:
    """Looks at JSON text before it is parsed, which can take a hundred times as long and as much memory.

    Raises:
        WireError: It has more values than `MAX_VALUES`, or is nested deeper than `MAX_DEPTH`.
    """
    if body.count(b'"') - body.count(b'\\"') > 4 * MAX_VALUES:
        raise WireError(f"frame of more than {MAX_VALUES} values")
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH and _count_values(body) <= MAX_VALUES:
        return
    body = _STRING.sub(b"", body)
    if _count_values(body) > MAX_VALUES:
        raise WireError(f"frame of more than {MAX_VALUES} values")
    brackets = body.translate(_AS_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise WireError(f"frame nested more than {MAX_DEPTH} levels deep")


def count_values(body: bytes) -> int:
    """About how many values JSON text has: never less than half of them."""
    if (count := _count_values(body)) > MAX_VALUES // 4:  # commas in strings are not meant
        count = _count_values(_STRING.sub(b"", body))
    return count


def _count_values(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


class FrameBuffer:
    """Cuts a stream of bytes into frame bodies.

    Args:
        max_frame: Largest frame to accept, in bytes.
        on_stream: Is given, in its turn, the body of each frame that belongs to a connection's stream (see
            `streams`). None: there are to be none.
    """

    def __init__(self, max_frame: int = MAX_FRAME, on_stream: Callable[[bytes], None] | None = None) -> None:
        self._max_frame = max_frame
        self._on_stream = on_stream
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forgets what has been fed so far."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes what was read, yields each body that is complete by now.

        Raises:
            WireError: A frame announces more than the limit.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            limit, on_stream = self._max_frame, None
            if length & MARK and self._on_stream is not None:
                length, limit, on_stream = length ^ MARK, MAX_BODY, self._on_stream
            if length > limit:
                raise WireError(f"frame of {length} bytes is over the limit of {limit}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            if on_stream is None:
                yield body
            else:
                on_stream(body)
