"""What a command prints, kept within a bound, and the wait for it."""

import os
import select
from collections.abc import Collection


class CappedOutput:
    """The beginning and the end of a stream of bytes; of the middle, only the size.

    Args:
        cap: Most bytes to keep.
    """

    def __init__(self, cap: int) -> None:
        self._head_cap = cap // 2
        self._tail_cap = cap - cap // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.size = 0
        """Bytes that went by."""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        self.size += len(data)
        room = self._head_cap - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-self._tail_cap :]
        if len(self._tail) > 2 * self._tail_cap:
            del self._tail[: -self._tail_cap]

    def text(self) -> str:
        """What was kept, bytes that are not UTF-8 replaced, with the size of what was left out between."""
        tail = self._tail[-self._tail_cap :]
        left_out = self.size - len(self._head) - len(tail)
        if left_out == 0:
            return (self._head + tail).decode("utf-8", "replace")
        head, end = self._head.decode("utf-8", "replace"), tail.decode("utf-8", "replace")
        return f"{head}\n[… {left_out:,} bytes left out …]\n{end}"


def wait_until_ready(
    readers: Collection[int], writers: Collection[int], seconds: float
) -> tuple[set[int], set[int]]:
    """Waits for descriptors, whatever their numbers: `select` takes none above 1,023.

    Returns:
        Those that can be read or have ended, and those that can be written or whose other end is gone.
    """
    poll = select.poll()
    for descriptor in readers:
        poll.register(descriptor, select.POLLIN)
    for descriptor in writers:
        poll.register(descriptor, select.POLLOUT)
    ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
    return ready.intersection(readers), ready.intersection(writers)


def read_available(descriptor: int, limit: int = 1 << 20) -> bytes | None:
    """Up to `limit` bytes that are there to be read; None at the end of the stream."""
    try:
        return os.read(descriptor, limit) or None
    except BlockingIOError:
        return b""
