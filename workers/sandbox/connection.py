"""Requests and replies over one pipe: many in flight, each with its own time limit."""

import asyncio
from collections.abc import Callable
from typing import Any

from workers import printed
from workers.errors import (
    EndCause,
    PortTaken,
    RequestRefused,
    SandboxDied,
    SandboxError,
    SandboxStartError,
    SessionLost,
    SessionSetupError,
    SessionTimeout,
    ToolsetError,
)
from workers.sandbox import wire
from workers.sandbox.relay import Relay

GRACE = 10.0
"""Seconds beyond a request's own limit, which the tool host enforces, after which the host is the one to
act: a tool host that misses its own deadline is stuck or hostile."""
_STDERR_KEPT = 8192

_ERRORS: dict[str, tuple[type[SandboxError], EndCause]] = {
    "timeout": (SessionTimeout, "time"),
    "lost": (SessionLost, "session"),
    "protocol": (SessionLost, "protocol"),
    "memory": (SessionLost, "memory"),
    "closed": (SessionLost, "engine"),
    "setup": (SessionSetupError, "toolset"),
    "capacity": (SessionLost, "capacity"),
    "port": (PortTaken, "capacity"),
    "preload": (SandboxStartError, "toolset"),
}
"""What a failure's kind stands for. A session's own process can say no more than `setup` or a call's name,
which the tool host sees to."""


class Connection:
    """One sandbox's pipe, seen from the worker.

    Args:
        write: Sends bytes into the sandbox.
        on_broken: Called once when the sandbox is not to be used any more: to hang up.
    """

    def __init__(self, write: Callable[[bytes], None], on_broken: Callable[[], None]) -> None:
        self._write = write
        self._on_broken = on_broken
        self.relay = Relay(write)
        """Connections from inside."""
        self._frames = wire.FrameBuffer(self.relay.feed)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._printed: dict[int, str] = {}
        """What sessions have printed, by the request in whose reply they said so."""
        self._stderr = bytearray()
        self.broken: SandboxDied | None = None
        self.hello: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[0] = self.hello

    async def request(self, op: str, timeout: float, **fields: Any) -> Any:
        """Sends a request and gives back the result in its reply.

        Args:
            op: The operation.
            timeout: Seconds that the tool host gives it; the worker itself gives up `GRACE` later.
            **fields: The operation's arguments.

        Raises:
            SandboxDied: The sandbox is gone, or was given up on because of this request.
            RequestRefused: The request is too large or nested too deep to be sent.
            SandboxError: The sandbox says why it did not do it; the subclass says what kind of why.
        """
        if self.broken:
            raise self.broken
        self._last_id += 1
        request_id = self._last_id
        try:
            frame = wire.encode({"id": request_id, "op": op, "timeout": timeout, **fields})
        except wire.ProtocolError as error:
            raise RequestRefused(f"{op}: {error}") from error
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = reply
        self._write(frame)
        try:
            return await self.answer(reply, timeout + GRACE, f"{op} was not answered")
        finally:
            said, episode = self._printed.pop(request_id, None), printed.current.get()
            if said is not None and episode is not None:
                episode.add(said)

    async def answer(self, reply: "asyncio.Future[Any]", limit: float, complaint: str) -> Any:
        """Waits for a reply; when it does not come within `limit` seconds, gives the sandbox up."""
        overdue = f"{complaint} within {limit:g} s"
        timer = asyncio.get_running_loop().call_later(limit, self.break_off, overdue)
        try:
            return await reply
        finally:
            timer.cancel()

    def feed(self, data: bytes) -> None:
        """Takes bytes of the sandbox's stdout. None of a broken one are kept."""
        if self.broken:
            return
        try:
            for body in self._frames.feed(data):
                self._settle(wire.decode(body))
        except wire.ProtocolError as error:
            self.break_off(f"it broke the protocol: {error}", "protocol")

    def feed_stderr(self, data: bytes) -> None:
        """Takes bytes of the sandbox's stderr; only the end of it is kept."""
        self._stderr += data
        del self._stderr[:-_STDERR_KEPT]

    def break_off(self, reason: str, cause: EndCause | None = None) -> None:
        """Declares the sandbox dead: every request in flight fails, and so will any later one.

        Args:
            reason: In words, for the error.
            cause: Why, where it is known already.
        """
        if self.broken:
            return
        said = self._stderr.decode("utf-8", "replace").strip()
        self.broken = SandboxDied(f"the sandbox died: {reason}" + (f"; it last said: {said}" if said else ""))
        self.broken.cause = cause
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(self.broken)
                reply.exception()  # its waiter may be gone already
        self._pending.clear()
        self._frames = wire.FrameBuffer(self.relay.feed)
        self.relay.break_off()
        self._on_broken()

    def _settle(self, reply: wire.Reply) -> None:
        future = self._pending.pop(reply.id, None)
        if future is None:
            raise wire.ProtocolError(f"a reply to a request that is not pending: {reply.id}")
        if future.done():  # its waiter was cancelled
            return
        if reply.printed:
            self._printed[reply.id] = reply.printed
        if reply.ok:
            future.set_result(reply.result)
        else:
            assert reply.error is not None
            kind, message = reply.error.kind, reply.error.message
            if reply.error.type != kind:
                message = f"{reply.error.type}: {message}"
            if reply.error.trace:
                message = f"{message}\n{reply.error.trace}"
            error_class, cause = _ERRORS.get(kind, (ToolsetError, "toolset"))
            error = error_class(message)
            error.cause = cause
            error.trace = reply.error.trace or None
            if isinstance(error, ToolsetError):
                error.raised = reply.error.type
            future.set_exception(error)
            future.exception()
