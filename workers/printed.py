"""What code prints while it plays an episode, kept by episode, beside where it goes anyway."""

import io
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

_MAX_CHARACTERS = 65_536
"""Characters that are kept of one episode."""


class EpisodeOutput:
    """The output that one episode has printed, up to a limit."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._room = _MAX_CHARACTERS

    def add(self, text: str) -> None:
        """Keeps a text, as far as there is room."""
        if self._room <= 0 or not text:
            return
        self._parts.append(text[: self._room])
        self._room -= len(text)
        if self._room <= 0:
            self._parts.append("\n[more was printed, and is not kept]")

    def text(self) -> str | None:
        """All of it, in UTF-8; None where nothing was printed."""
        said = "".join(self._parts)
        return said.encode("utf-8", "replace").decode() if said.strip() else None


current: ContextVar[EpisodeOutput | None] = ContextVar("kumite_printed", default=None)
"""That of the episode which the running task plays."""


class _CapturingStream(io.TextIOBase):
    """A stream that is written through, and whose text is kept for the episode that wrote it.

    Args:
        stream: The stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        printed = current.get()
        if printed is not None:
            printed.add(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    @property
    def buffer(self) -> io.BufferedIOBase:
        return self._stream.buffer  # type: ignore[return-value]


@contextmanager
def capture_output(printed: EpisodeOutput) -> Generator[None]:
    """Captures what the running task, and what it starts, prints inside the block."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _CapturingStream):
            setattr(sys, name, _CapturingStream(stream))
    token = current.set(printed)
    try:
        yield
    finally:
        current.reset(token)
