"""The worker's side of the pipe. Whatever comes out of a sandbox is untrusted: bounded and checked here."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

HEADER = struct.Struct(">I")
MARK = 1 << 31
"""What is added to a frame's length where it is no JSON, but belongs to a connection's stream."""
MAX_STREAM_BODY = 5 + 16_384
"""Largest body of such a frame, in bytes."""
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


class ProtocolError(Exception):
    """What one side sent, or is about to send, is nothing that the other could take."""


class Failure(BaseModel):
    """Why a request failed inside."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str
    type: str
    message: str
    trace: str


class Reply(BaseModel):
    """One frame from a sandbox."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: int
    ok: bool
    result: Any = None
    error: Failure | None = None
    printed: str | None = None
    """What the session's toolset has printed since its reply before."""

    @model_validator(mode="after")
    def _says_why(self) -> "Reply":
        if not self.ok and self.error is None:
            raise ValueError("a failure that does not say why")
        return self


def encode(request: dict[str, Any]) -> bytes:
    """One frame, ready to be written.

    Raises:
        ProtocolError: It is larger, or nested deeper, than a sandbox accepts.
    """
    try:
        body = json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    except RecursionError as error:
        raise ProtocolError(f"a request nested more than {MAX_DEPTH} levels deep") from error
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a request of {len(body)} bytes is over the limit of {MAX_FRAME}")
    check_form(body, "a request")
    return HEADER.pack(len(body)) + body


def _as_utf8(body: bytes) -> bytes:
    """JSON text in UTF-8, whose form has been looked at; it may come in any encoding that JSON allows."""
    encoding = json.detect_encoding(body)
    if encoding != "utf-8":
        body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    check_form(body)
    return body


def check_form(body: bytes, what: str = "a frame") -> None:
    """Looks at JSON text before it is parsed, which can take a hundred times as long and as much memory.

    Args:
        body: The text.
        what: What it is, for the error.

    Raises:
        ProtocolError: It has more values than `MAX_VALUES`, or is nested deeper than `MAX_DEPTH`.
    """
    if body.count(b'"') - body.count(b'\\"') > 4 * MAX_VALUES:
        raise ProtocolError(f"{what} of more than {MAX_VALUES} values")
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH and _count_values(body) <= MAX_VALUES:
        return
    body = _STRING.sub(b"", body)
    if _count_values(body) > MAX_VALUES:
        raise ProtocolError(f"{what} of more than {MAX_VALUES} values")
    brackets = body.translate(_AS_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise ProtocolError(f"{what} nested more than {MAX_DEPTH} levels deep")


def _count_values(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def decode(body: bytes) -> Reply:
    """The reply in a frame's body.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return Reply.model_validate(json.loads(_as_utf8(body)))
    except (ValueError, RecursionError, ValidationError) as error:
        raise ProtocolError(f"not a reply: {str(error)[:200]}") from error


class FrameBuffer:
    """Cuts a stream of bytes into frame bodies.

    Args:
        on_stream: Is given, in its turn, the body of each frame that belongs to a connection's stream. None:
            there are to be none.
    """

    def __init__(self, on_stream: Callable[[bytes], None] | None = None) -> None:
        self._on_stream = on_stream
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes what was read, yields the body of each reply that is complete by now.

        Raises:
            ProtocolError: A frame announces more than `MAX_FRAME`, or `on_stream` refuses one.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            limit, on_stream = MAX_FRAME, None
            if length & MARK and self._on_stream is not None:
                length, limit, on_stream = length ^ MARK, MAX_STREAM_BODY, self._on_stream
            if length > limit:
                raise ProtocolError(f"a frame of {length} bytes is over the limit of {limit}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            if on_stream is None:
                yield body
            else:
                on_stream(body)


class StreamDemultiplexer:
    """Takes Docker's attach stream apart: 8-byte headers of stream number and length, then payload.

    Source: "Stream format" of the Engine API's `ContainerAttach`.
    """

    _HEADER = struct.Struct(">BxxxI")

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """Takes what was read, yields pieces of the two streams in order, without waiting for whole ones."""
        self._buffer += data
        while len(self._buffer) >= self._HEADER.size:
            number, length = self._HEADER.unpack_from(self._buffer)
            end = self._HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[self._HEADER.size : end])
            del self._buffer[:end]
            yield ("stderr" if number == 2 else "stdout"), payload
