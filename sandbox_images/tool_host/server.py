"""The tool host's own side: reads requests from the worker's pipe, forks sessions, relays, kills."""

import heapq
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox_images.tool_host import process, wire
from sandbox_images.tool_host.scratch import remove
from sandbox_images.tool_host.session import become_session, failure
from sandbox_images.tool_host.toolset import Toolset, ToolsetError

_ORPHANS_MUST_BE_GONE = 5.0
"""Seconds after which a process that outlives its session is beyond us: the sandbox gives up and dies."""
_CHUNK = 1 << 16


@dataclass
class _Child:
    """A live session as the host sees it."""

    name: str
    pid: int
    channel: socket.socket
    scratch: Path
    frames: wire.FrameBuffer
    received: int = 0
    outgoing: bytearray = field(default_factory=bytearray)
    pending: dict[int, str] = field(default_factory=dict)
    """Requests that the child has not answered yet: operation by id."""
    closing: list[int] = field(default_factory=list)
    """Close requests to answer when the process is gone."""
    cause: str | None = None
    """Why the host killed it, where it did."""


class Server:
    """Serves one worker over a pair of descriptors until the worker hangs up.

    Args:
        toolset: Preloaded; every session is a fork of this process.
        reader: Descriptor that requests come from.
        writer: Descriptor that replies go to; no session inherits it.
        scratch: Folder in which each session gets one of its own.
        limits: Resource limits of a session, as `process.apply_limits` takes them.
        quiet: Whether what sessions print is thrown away.
        first_user: User id of the first session, later ones have later ones; None: all have the tool host's.
    """

    def __init__(
        self,
        toolset: Toolset,
        reader: int,
        writer: int,
        scratch: Path,
        limits: dict[str, Any],
        quiet: bool,
        first_user: int | None = None,
    ) -> None:
        self._toolset = toolset
        self._reader = reader
        self._writer = writer
        self._scratch = scratch
        self._limits = limits
        self._quiet = quiet
        self._first_user = first_user
        self._frames = wire.FrameBuffer()
        self._outgoing = bytearray()
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, _Child] = {}
        self._by_pid: dict[int, _Child] = {}
        self._janitors: set[int] = set()
        self._deadlines: list[tuple[float, str, int]] = []
        self._orphans_since: float | None = None
        self._closed: list[int] = []
        self._abandoned: list[Path] = []
        self._opened = 0
        self._removed = 0

    def run(self) -> None:
        """Serves until the worker closes its end of the pipe, then kills every session."""
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._watch_children()
        self._selector.register(self._reader, selectors.EVENT_READ, self._read_requests)
        try:
            while True:
                if self._outgoing:
                    self._flush(0)
                for key, events in self._selector.select(self._patience()):
                    callback: Callable[[int], None] = key.data
                    callback(events)
                self._enforce_deadlines()
                self._reap()
        except EOFError:
            pass
        finally:
            self._kill_all()

    def reply(self, message: dict[str, Any]) -> None:
        """Queues a frame for the worker."""
        self._send(wire.encode(message))

    def _watch_children(self) -> None:
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._wake = wake
        self._selector.register(woken, selectors.EVENT_READ, lambda _: woken.recv(4096) and None)

    def _patience(self) -> float | None:
        if self._orphans_since is not None:
            return 0.02
        if self._deadlines:
            return max(0.0, self._deadlines[0][0] - time.monotonic())
        return None

    # Requests

    def _read_requests(self, _: int) -> None:
        data = os.read(self._reader, 1 << 20)
        if not data:
            raise EOFError
        for body in self._frames.feed(data):
            self._handle(wire.decode(body), body)

    def _handle(self, request: dict[str, Any], body: bytes) -> None:
        match request["op"]:
            case "ping":
                self.reply({"id": request["id"], "ok": True, "result": {}})
            case "stats":
                self.reply({"id": request["id"], "ok": True, "result": self._stats()})
            case "base_state":
                self._look_up(request, self._toolset.base_state, request["state_id"])
            case "tool_schemas":
                self._look_up(request, self._toolset.tool_schemas, request["tools_id"])
            case "open":
                self._open(request)
            case "close":
                self._close(request)
            case _:
                self._relay(request, body)

    def _stats(self) -> dict[str, Any]:
        return {"sessions": sorted(self._children), "opened": self._opened, "processes": len(self._by_pid)}

    def _look_up(self, request: dict[str, Any], find: Callable[[str], Any], name: str) -> None:
        try:
            self.reply({"id": request["id"], "ok": True, "result": find(name)})
        except Exception as error:  # noqa: BLE001 - a toolset may raise anything; it becomes the answer
            self.reply(failure(request["id"], request["op"], error))

    def _open(self, request: dict[str, Any]) -> None:
        name = request["session"]
        try:
            if name in self._children:
                raise ToolsetError(f"there is a session {name!r} already")
            prepared = self._toolset.prepare(request["task"])
        except Exception as error:  # noqa: BLE001 - see above
            self.reply(failure(request["id"], "setup", error))
            return
        scratch = self._scratch / name
        with ExitStack() as undo:
            try:
                ours, theirs = socket.socketpair()
                undo.callback(ours.close)
                undo.callback(theirs.close)
                scratch.mkdir(mode=0o700)
                undo.callback(scratch.rmdir)
                users = self._next_users()
                if users is not None:
                    os.chown(scratch, users[1], users[1])
                pid = os.fork()
            except OSError as error:
                self.reply(failure(request["id"], "capacity", error))
                return
            if pid == 0:
                become_session(
                    theirs, self._toolset, prepared, request, scratch, self._limits, self._quiet, users
                )
            undo.pop_all()
        theirs.close()
        ours.setblocking(False)
        self._opened += 1
        child = _Child(name, pid, ours, scratch, wire.FrameBuffer(), pending={request["id"]: "open"})
        self._children[name] = self._by_pid[pid] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda events: self._serve_child(child, events))
        self._set_deadline(request, name)

    def _next_users(self) -> tuple[int, int] | None:
        """Whose the next session is, and whom it acts as: another where it starts what the model wrote."""
        if self._first_user is None:
            return None
        user = self._first_user + 2 * self._opened
        return user, user + self._toolset.runs_model_code

    def _relay(self, request: dict[str, Any], body: bytes) -> None:
        child = self._children.get(request["session"])
        if child is None or child.cause is not None:
            self._lost(request["id"], "the session is not there: it was never opened, or it has ended")
            return
        child.pending[request["id"]] = request["op"]
        child.outgoing += wire.HEADER.pack(len(body)) + body
        self._set_deadline(request, child.name)
        self._write_to(child)

    def _close(self, request: dict[str, Any]) -> None:
        child = self._children.get(request["session"])
        if child is None:
            self.reply({"id": request["id"], "ok": True, "result": {}})
            return
        child.closing.append(request["id"])
        self._kill(child, "it was closed")

    # Sessions

    def _serve_child(self, child: _Child, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write_to(child)
        if not events & selectors.EVENT_READ:
            return
        try:
            data = child.channel.recv(_CHUNK * 4)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        child.received += len(data)
        try:
            for body in child.frames.feed(data):
                self._forward(child, body)
        except wire.WireError as error:
            self._hang_up(child, f"it broke the protocol: {error}")
        if not data:
            self._hang_up(child, "its process ended by itself")

    def _drain(self, child: _Child) -> None:
        """Reads what a dead session said last. A descendant that holds its socket open gets no more."""
        before = -1
        while child.channel.fileno() >= 0 and child.received != before:
            before = child.received
            self._serve_child(child, selectors.EVENT_READ)
        self._hang_up(child, "its process ended by itself")

    def _hang_up(self, child: _Child, cause: str) -> None:
        if child.channel.fileno() >= 0:
            self._selector.unregister(child.channel)
            child.channel.close()
        self._kill(child, cause)

    def _forward(self, child: _Child, body: bytes) -> None:
        """Passes a reply on, if it is one: a tool may have written to the session's own socket."""
        request_id, frame = wire.relay(body)
        if child.pending.pop(request_id, None) is None:
            raise wire.WireError(f"a reply to a request that is not pending: {request_id!r:.80}")
        self._send(frame)

    def _write_to(self, child: _Child) -> None:
        try:
            sent = child.channel.send(child.outgoing)
            del child.outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:  # it takes no more: its end, or its time limit, will settle what is pending
            child.outgoing.clear()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.outgoing else 0)
        key = self._selector.get_map().get(child.channel)
        if key is not None and key.events != wanted:
            self._selector.modify(child.channel, wanted, key.data)

    # Deadlines and deaths

    def _set_deadline(self, request: dict[str, Any], name: str) -> None:
        if timeout := request.get("timeout"):
            heapq.heappush(self._deadlines, (time.monotonic() + timeout, name, request["id"]))

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, name, request_id = heapq.heappop(self._deadlines)
            child = self._children.get(name)
            if child is None or request_id not in child.pending:
                continue
            operation = child.pending.pop(request_id)
            message = f"{operation} did not end within its time limit; the session was killed"
            self.reply({"id": request_id, "ok": False, "error": _error("timeout", message)})
            self._kill(child, "another request ran into its time limit")

    def _kill(self, child: _Child, cause: str) -> None:
        child.cause = child.cause or cause
        self._signal(os.killpg, child.pid)
        if child.pid in self._by_pid:  # not reaped yet, so the number is still its own
            self._signal(os.kill, child.pid)

    def _signal(self, kill: Callable[[int, int], None], pid: int) -> None:
        with suppress(OSError):
            kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        reaped = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            reaped = True
            self._janitors.discard(pid)
            if child := self._by_pid.pop(pid, None):
                self._bury(child, status)
        if reaped or self._orphans_since is not None:
            self._sweep()

    def _bury(self, child: _Child, status: int) -> None:
        self._drain(child)
        del self._children[child.name]
        code = os.waitstatus_to_exitcode(status)
        for request_id in child.pending:
            self._lost(request_id, f"the session is gone: {child.cause} (exit {code})")
        self._abandoned.append(child.scratch)
        self._closed += child.closing

    def _sweep(self) -> None:
        """Kills what outlived its session: any child of ours that is no session and no janitor.

        A session adopts the orphans among its descendants, so they come to us only when it has died.
        """
        orphans = process.children() - self._by_pid.keys() - self._janitors
        if not orphans:
            self._orphans_since = None
            for scratch in self._abandoned:
                self._remove(scratch)
            self._abandoned.clear()
            for request_id in self._closed:
                self.reply({"id": request_id, "ok": True, "result": {}})
            self._closed.clear()
            return
        self._orphans_since = self._orphans_since or time.monotonic()
        if time.monotonic() - self._orphans_since > _ORPHANS_MUST_BE_GONE:
            raise SystemExit("processes outlive their session faster than they can be killed")
        for pid in orphans:
            self._signal(os.kill, pid)

    def _remove(self, scratch: Path) -> None:
        """Removes a scratch folder, in a process of its own when there is anything in it."""
        try:
            scratch.rmdir()
            return
        except OSError:
            pass
        self._removed += 1
        trash = scratch.with_name(f".removed-{self._removed}")
        try:
            scratch.rename(trash)
            pid = os.fork()
        except OSError:
            return
        if pid == 0:
            try:
                remove(str(trash))
            finally:
                os._exit(0)
        self._janitors.add(pid)

    def _kill_all(self) -> None:
        for child in self._children.values():
            self._kill(child, "the sandbox is going down")
        deadline = time.monotonic() + _ORPHANS_MUST_BE_GONE
        while (left := process.children()) and time.monotonic() < deadline:
            for pid in left:
                self._signal(os.kill, pid)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.005)

    # Replies

    def _lost(self, request_id: int, message: str) -> None:
        self.reply({"id": request_id, "ok": False, "error": _error("lost", message)})

    def _send(self, frame: bytes) -> None:
        self._outgoing += frame

    def _flush(self, _: int) -> None:
        try:
            written = os.write(self._writer, self._outgoing)
            del self._outgoing[:written]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            raise EOFError from None
        registered = self._writer in self._selector.get_map()
        if self._outgoing and not registered:
            self._selector.register(self._writer, selectors.EVENT_WRITE, self._flush)
        elif not self._outgoing and registered:
            self._selector.unregister(self._writer)


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"kind": kind, "type": kind, "message": message, "trace": ""}
