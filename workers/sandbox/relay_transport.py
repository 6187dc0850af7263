"""One connection from inside of a sandbox as an asyncio transport."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

from workers.sandbox.relay_frames import CHUNK, CREDIT, DATA, END, NUMBER, PIPE_WINDOW, RESET, WINDOW, frame
from workers.sandbox.wire import ProtocolError

_LINGER = 5.0
"""Seconds that the program inside has to close its end when ours is closed."""
_HIGH, _LOW = 65_536, 16_384
"""Bytes in a write buffer at which a protocol is paused, and at which it goes on."""


class PipeCredit:
    """How many bytes of DATA the tool host takes now, of all streams together, and who waits for more."""

    def __init__(self) -> None:
        self.left = PIPE_WINDOW
        self._waiting: dict[RelayTransport, None] = {}

    def add(self, size: int) -> None:
        """Takes CREDIT; who has waited longest goes on first.

        Raises:
            ProtocolError: So much was not sent.
        """
        if not 0 < size <= PIPE_WINDOW - self.left:
            raise ProtocolError(f"credit of {size} bytes that were not sent")
        self.left += size
        waiting, self._waiting = self._waiting, {}
        for transport in waiting:
            transport.go_on()

    def wait(self, transport: "RelayTransport") -> None:
        """Has a transport go on when there is some."""
        self._waiting[transport] = None

    def forget(self, transport: "RelayTransport") -> None:
        """Lets go of a transport that has ended."""
        self._waiting.pop(transport, None)


class RelayTransport(asyncio.Transport):
    """A stream on a sandbox's pipe, as TCP's transport is to whoever uses it.

    `close` sends what is written, then says so; what comes afterwards is dropped, and a program that does not
    close its own end within seconds finds its connection reset. `abort` resets it at once.

    Args:
        number: Its number on the pipe.
        send: Writes a frame to the pipe.
        pipe: The credit that it shares with all others.
        context: What the protocol's callbacks run in.
        extra: What `get_extra_info` tells.
        done: Is called once, when both sides are done with the stream.
    """

    def __init__(
        self,
        number: int,
        send: Callable[[bytes], None],
        pipe: PipeCredit,
        context: Context,
        extra: dict[str, Any],
        done: Callable[["RelayTransport"], None],
    ) -> None:
        super().__init__(extra)
        self.number = number
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._pipe = pipe
        self._context = context
        self._done = done
        self._protocol = asyncio.BaseProtocol()
        self._credit = WINDOW
        self._receivable = WINDOW
        self._owed = 0
        self._buffer = bytearray()
        self._held: deque[bytes] = deque()
        """What came while the protocol did not want to read."""
        self._high, self._low = _HIGH, _LOW
        self._sent_end = self._got_end = self._sent_reset = self._got_reset = False
        self._wants_end = self._is_closing = self._is_lost = self._is_flush_due = False
        self._is_paused = self._is_writing_paused = self._has_told_end = False
        self._linger: asyncio.TimerHandle | None = None

    # The stream's side

    def begin(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Connects the protocol that a factory makes; resets the connection where it makes none."""
        try:
            self._protocol = factory()
        except ConnectionRefusedError:
            self.abort()
        except Exception as error:  # noqa: BLE001 - it costs this connection
            self._report("the factory of protocols raised", error)
            self.abort()
        else:
            self._call("connection_made", self._protocol.connection_made, self)

    def take(self, data: bytes) -> None:
        """Takes DATA.

        Raises:
            ProtocolError: It is more than there was credit for, or comes after END.
        """
        self._receivable -= len(data)
        if not data or self._receivable < 0 or self._got_end:
            raise ProtocolError(f"stream {self.number}: {len(data)} bytes that may not be sent")
        if self._is_closing:
            return
        if self._is_paused or self._held:
            self._held.append(data)
        else:
            self._deliver(data)

    def take_end(self) -> None:
        """Takes END.

        Raises:
            ProtocolError: There was one.
        """
        if self._got_end:
            raise ProtocolError(f"stream {self.number} ends twice")
        self._got_end = True
        if not self._is_paused and not self._held:
            self._tell_end()
        self._finish_when_done()

    def take_reset(self) -> None:
        """Takes RESET."""
        self._got_reset = True
        self._reset(ConnectionResetError("the program in the sandbox has reset its connection, or has ended"))

    def take_credit(self, size: int) -> None:
        """Takes CREDIT.

        Raises:
            ProtocolError: So much was not sent.
        """
        if not 0 < size <= WINDOW - self._credit:
            raise ProtocolError(
                f"stream {self.number}: credit of {size} bytes, of which {self._credit} are there"
            )
        self._credit += size
        self._flush()

    def go_on(self) -> None:
        """Sends on what the pipe had no room for."""
        self._flush()

    def break_off(self, error: Exception) -> None:
        """Ends it because the sandbox is gone."""
        self._sent_reset = True  # there is nobody to be told
        self._reset(error)
        self._finish()

    # asyncio's side

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return not self._is_paused and not self._is_closing

    def pause_reading(self) -> None:
        """Has no more data delivered; what the program sends beyond its credit waits with it."""
        if not self._is_closing:
            self._is_paused = True

    def resume_reading(self) -> None:
        """Goes on with what has come meanwhile."""
        if self._is_paused and not self._is_closing:
            self._is_paused = False
            self._loop.call_soon(self._deliver_held)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._pause_or_resume_writing()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends data when the caller is done, or when there is credit for it. Never blocks.

        What is written one after the other, an answer's head and its body for example, makes one frame.
        """
        if self._wants_end:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._is_closing:
            return
        self._buffer += data
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)
        self._pause_or_resume_writing()

    def writelines(self, list_of_data: "Iterable[bytes | bytearray | memoryview]") -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Half-closes it: the program inside reads an end of file when it has read all."""
        if not self._is_closing and not self._wants_end:
            self._wants_end = True
            self._flush()

    def close(self) -> None:
        """Sends what is written, and closes."""
        if self._is_closing:
            return
        self._is_closing = self._wants_end = True
        self._held.clear()
        self._flush()
        if self._sent_end:
            self._close_after_end()

    def abort(self) -> None:
        """Resets the connection at once."""
        self._reset(None)

    # Both

    def _deliver(self, data: bytes) -> None:
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._call("get_buffer", _fill_buffers, protocol, data)
        elif isinstance(protocol, asyncio.Protocol):
            self._call("data_received", protocol.data_received, data)
        self._owed += len(data)
        if self._owed >= WINDOW // 2 and not (self._got_end or self._is_closing):
            self._send(frame(CREDIT, self.number, NUMBER.pack(self._owed)))
            self._receivable += self._owed
            self._owed = 0

    def _deliver_held(self) -> None:
        while self._held and not self._is_paused and not self._is_closing:
            self._deliver(self._held.popleft())
        if self._got_end and not self._held and not self._is_paused:
            self._tell_end()

    def _tell_end(self) -> None:
        if self._is_closing or self._has_told_end:
            return
        self._has_told_end = True
        protocol = self._protocol
        stays_open = None
        if isinstance(protocol, asyncio.Protocol | asyncio.BufferedProtocol):
            stays_open = self._call("eof_received", protocol.eof_received)
        if not stays_open:
            self.close()

    def _flush(self) -> None:
        """Sends what there is credit for, then END if that is wanted."""
        self._is_flush_due = False
        if self._sent_reset or self._sent_end:
            return
        while self._buffer:
            size = min(len(self._buffer), CHUNK, self._credit, self._pipe.left)
            if not size:
                if self._credit:
                    self._pipe.wait(self)
                break
            self._send(frame(DATA, self.number, bytes(self._buffer[:size])))
            del self._buffer[:size]
            self._credit -= size
            self._pipe.left -= size
        if self._wants_end and not self._buffer:
            self._sent_end = True
            self._send(frame(END, self.number))
            if self._is_closing:
                self._close_after_end()
            self._finish_when_done()
        self._pause_or_resume_writing()

    def _close_after_end(self) -> None:
        self._lose(None)
        if not self._got_end and self._linger is None:
            self._linger = self._loop.call_later(_LINGER, self.abort)

    def _pause_or_resume_writing(self) -> None:
        size = len(self._buffer)
        if size > self._high and not self._is_writing_paused:
            self._is_writing_paused = True
            self._call("pause_writing", self._protocol.pause_writing)
        elif size <= self._low and self._is_writing_paused:
            self._is_writing_paused = False
            if not self._is_closing:
                self._call("resume_writing", self._protocol.resume_writing)

    def _reset(self, error: Exception | None) -> None:
        self._is_closing = self._wants_end = True
        self._buffer.clear()
        self._held.clear()
        if not self._sent_reset:
            self._sent_reset = True
            if not (self._sent_end and self._got_end):
                self._send(frame(RESET, self.number))
        self._lose(error)
        self._finish_when_done()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._loop.call_soon(self._call, "connection_lost", self._protocol.connection_lost, error)

    def _finish_when_done(self) -> None:
        if (self._sent_end and self._got_end) or (self._sent_reset and self._got_reset):
            self._finish()

    def _finish(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._pipe.forget(self)
        done, self._done = self._done, _nothing
        done(self)

    def _call(self, name: str, callback: Callable[..., Any], *args: Any) -> Any:
        """Calls the protocol; what it raises costs this connection, as with any transport of asyncio's."""
        try:
            context = self._context.copy()  # for one callback may bring about another
            return context.run(callback, *args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a protocol may raise anything
            self._report(f"protocol.{name}() raised", error)
            self._reset(error if isinstance(error, Exception) else None)
            return None

    def _report(self, what: str, error: BaseException) -> None:
        about = {"message": f"a connection from a sandbox: {what}", "exception": error, "transport": self}
        self._loop.call_exception_handler({**about, "protocol": self._protocol})


def _fill_buffers(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """Gives data to a protocol that brings its own buffers."""
    rest = memoryview(data)
    while rest:
        buffer = memoryview(protocol.get_buffer(len(rest)))
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        size = min(len(buffer), len(rest))
        buffer[:size] = rest[:size]
        protocol.buffer_updated(size)
        rest = rest[size:]


def _nothing(_: RelayTransport) -> None:
    """Takes the place of a callback that was called."""
