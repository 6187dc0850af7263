"""Connections as streams on the worker's pipe: the frames, and one connection as the tool host sees it.

A program in the sandbox connects to a port on the loopback interface, or to a Unix socket, where the tool
host listens. Each connection is a stream of bytes in both directions, carried beside the JSON frames:

    length | 0x80000000 (4 bytes), kind (1 byte), stream (4 bytes), payload; all numbers big-endian

The length is that of kind, stream and payload. Only the tool host begins streams; it numbers them from 1 on
and uses no number twice.

- OPEN, 1, by the tool host alone: a stream begins. Payload: the port that was connected to and that of the
  peer, 2 bytes each; the latter is 0 where the connection came by a Unix socket.
- DATA, 2: the next bytes, 1 to 16,384.
- END, 3: no more DATA comes from this side (TCP's FIN).
- RESET, 4: the stream is over, in both directions, with what was under way (TCP's RST).
- CREDIT, 5: the other side may send so many bytes more. Payload: the number, 4 bytes.

**Credit.** Each side may send `WINDOW` bytes of a stream, and `PIPE_WINDOW` bytes of DATA of all streams
together; then it waits for CREDIT. That of a stream comes when its bytes have been taken by whoever they are
for; that of all (stream 0) when they have come out of the pipe. So what one end does not read stays with the
program that wrote it, and a tool call's reply has at most `PIPE_WINDOW` bytes of others before it.

**The end.** A side is done with a stream when it has both sent and received END, or both sent and received
RESET. RESET is answered with RESET. After it has sent RESET a side drops what comes, until it is done. A
CREDIT or RESET of a stream that a side is done with was under way, and is dropped.

All else is a breach of the protocol: a number that was never opened, more than the credit, DATA after END, a
frame in no form, more than `MAX_STREAMS` streams of a session that this side is not done with. It costs the
whole sandbox.
"""

import selectors
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

MARK = 1 << 31
"""What is added to a frame's length where it is no JSON."""
FRAME = struct.Struct(">IBI")
BODY = struct.Struct(">BI")
PORTS = struct.Struct(">HH")
NUMBER = struct.Struct(">I")
OPEN, DATA, END, RESET, CREDIT = 1, 2, 3, 4, 5
CHUNK = 16_384
"""Most bytes of one DATA frame."""
MAX_BODY = BODY.size + CHUNK
WINDOW = 65_536
"""Bytes of a stream that may be sent ahead of CREDIT."""
PIPE_WINDOW = 262_144
"""The same of all streams together."""
MAX_STREAMS = 256
"""Most streams of a session at a time."""


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return FRAME.pack(BODY.size + len(payload) | MARK, kind, stream) + payload


class PipeCredit:
    """How many bytes of DATA the worker takes now, of all streams together, and who waits for more."""

    def __init__(self) -> None:
        self.left = PIPE_WINDOW
        self._waiting: dict[Stream, None] = {}

    def add(self, size: int) -> bool:
        """Takes CREDIT; whether there is any to be given back. Who has waited longest goes on first."""
        if not 0 < size <= PIPE_WINDOW - self.left:
            return False
        self.left += size
        waiting, self._waiting = self._waiting, {}
        for stream in waiting:
            stream.go_on()
        return True

    def wait(self, stream: "Stream") -> None:
        """Has a stream go on when there is some."""
        self._waiting[stream] = None

    def forget(self, stream: "Stream") -> None:
        """Lets go of a stream that has ended."""
        self._waiting.pop(stream, None)


class Stream:
    """One connection from inside of the sandbox.

    Args:
        number: Its number on the pipe.
        end: The socket that was accepted.
        selector: What the tool host waits on.
        send: Queues a frame for the worker.
        pipe: The credit that it shares with all others.
        done: Is called once, when it has ended.
    """

    def __init__(
        self,
        number: int,
        end: socket.socket,
        selector: selectors.BaseSelector,
        send: Callable[[bytes], None],
        pipe: PipeCredit,
        done: Callable[["Stream"], None],
    ) -> None:
        end.setblocking(False)
        self.number = number
        self._end = end
        self._selector = selector
        self._send = send
        self._pipe = pipe
        self._done = done
        self._credit = WINDOW
        self._receivable = WINDOW
        self._owed = 0
        self._incoming = bytearray()
        self._sent_end = self._got_end = self._sent_reset = False
        self._waits = False
        """Whether it has bytes to send and is to go on when the pipe takes them."""
        self._is_open = True
        self._watched = 0

    def take(self, data: bytes) -> bool:
        """Takes DATA of the worker's; whether the worker may send it."""
        self._receivable -= len(data)
        if not data or self._receivable < 0 or self._got_end:
            return False
        if not self._sent_reset:
            self._incoming += data
            self._write()
        return True

    def take_end(self) -> bool:
        """Takes END; whether the worker may send it."""
        if self._got_end:
            return False
        self._got_end = True
        if self._sent_reset:
            self._end_when_done()
        else:
            self._write()
        return True

    def take_reset(self) -> None:
        """Takes RESET: the program in the sandbox finds its connection reset."""
        self.reset()
        self._finish()

    def take_credit(self, size: int) -> bool:
        """Takes CREDIT; whether there is any to be given back."""
        if not 0 < size <= WINDOW - self._credit:
            return False
        self._credit += size
        self._watch()
        return True

    def reset(self) -> None:
        """Ends it for the program in the sandbox, and for the worker unless that is done with it."""
        if not self._sent_reset:
            self._sent_reset = True
            if not (self._sent_end and self._got_end):
                self._send(frame(RESET, self.number))
        self._incoming.clear()
        self._hang_up(by_reset=True)
        self._end_when_done()

    def go_on(self) -> None:
        """Has it read again what it could not send."""
        self._waits = False
        self._watch()

    def _watch(self) -> None:
        """Has the selector tell what can be gone on with now."""
        wanted = 0
        if self._is_open:
            if self._credit and not self._sent_end and not self._waits:
                wanted |= selectors.EVENT_READ
            if self._incoming:
                wanted |= selectors.EVENT_WRITE
        if wanted == self._watched:
            return
        if not self._watched:
            try:
                self._selector.register(self._end, wanted, self._serve)
            except OSError:  # for want of memory, or of places among what the kernel watches
                self.reset()
                return
        elif wanted:
            self._selector.modify(self._end, wanted, self._serve)
        else:
            self._selector.unregister(self._end)
        self._watched = wanted

    def _serve(self, events: int) -> None:
        events &= self._watched  # what was served before in the same round may have changed it
        if events & selectors.EVENT_WRITE:
            self._write()
        if events & self._watched & selectors.EVENT_READ:
            self._read()

    def _read(self) -> None:
        size = min(CHUNK, self._credit, self._pipe.left)
        if not size:
            self._waits = True
            self._pipe.wait(self)
            self._watch()
            return
        try:
            data = self._end.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        if data:
            self._credit -= len(data)
            self._pipe.left -= len(data)
            self._send(frame(DATA, self.number, data))
        else:
            self._sent_end = True
            self._send(frame(END, self.number))
        self._watch()
        self._end_when_done()

    def _write(self) -> None:
        """Writes what the program takes now, and gives credit for it."""
        if self._incoming:
            try:
                sent = self._end.send(self._incoming)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.reset()
                return
            del self._incoming[:sent]
            self._owed += sent
            if self._owed >= WINDOW // 2 and not self._got_end:
                self._send(frame(CREDIT, self.number, NUMBER.pack(self._owed)))
                self._receivable += self._owed
                self._owed = 0
        if self._got_end and not self._incoming:
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
        self._watch()
        self._end_when_done()

    def _end_when_done(self) -> None:
        """Ends it when both sides have said all, and the program has been given all of it."""
        if self._sent_end and self._got_end and not self._incoming:
            self._hang_up()
            self._finish()

    def _hang_up(self, by_reset: bool = False) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._watch()
        if by_reset:
            with suppress(OSError):
                self._end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end.close()

    def _finish(self) -> None:
        self._pipe.forget(self)
        done, self._done = self._done, _nothing
        done(self)


def _nothing(_: Stream) -> None:
    """Takes the place of a callback that was called."""
