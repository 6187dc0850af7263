"""The tool host's own side: takes requests from the worker's pipe, forks sessions, relays, kills."""

import heapq
import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sandbox_images.tool_host import wire
from sandbox_images.tool_host.channel import Channel
from sandbox_images.tool_host.pipe import WorkerPipe
from sandbox_images.tool_host.reaper import Reaper, send_kill
from sandbox_images.tool_host.session import become_session, failure
from sandbox_images.tool_host.toolset import Toolset, ToolsetError


@dataclass
class _Child:
    """A live session as the host sees it."""

    name: str
    pid: int
    scratch: Path
    pending: dict[int, str] = field(default_factory=dict)
    """Requests that the child has not answered yet: operation by id."""
    closing: list[int] = field(default_factory=list)
    """Close requests to answer when the process is gone."""
    cause: str | None = None
    """Why the host killed it, where it did."""
    channel: Channel = field(init=False)


class Server:
    """Serves one worker over a pair of descriptors until the worker hangs up.

    Args:
        toolset: Preloaded; every session is a fork of this process.
        reader: Descriptor that requests come from.
        writer: Descriptor that replies go to; no session inherits it.
        scratch: Folder in which each session gets one of its own.
        limits: Resource limits of a session, as `process.apply_limits` takes them.
        quiet: Whether what sessions print is thrown away.
        fork: Makes a session's process.
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
        fork: Callable[[], int],
        first_user: int | None = None,
    ) -> None:
        self._toolset = toolset
        self._scratch = scratch
        self._limits = limits
        self._quiet = quiet
        self._fork = fork
        self._first_user = first_user
        self._selector = selectors.DefaultSelector()
        self._pipe = WorkerPipe(self._selector, reader, writer, self._handle)
        self._reaper = Reaper(self._selector, self._bury, self._answer_closed)
        self._children: dict[str, _Child] = {}
        self._by_pid: dict[int, _Child] = {}
        self._deadlines: list[tuple[float, str, int]] = []
        self._closed: list[int] = []
        self._opened = 0
        self.reply = self._pipe.reply

    def run(self) -> None:
        """Serves until the worker closes its end of the pipe, then kills every session."""
        self._pipe.open()
        try:
            while True:
                self._pipe.flush()
                for key, events in self._selector.select(self._patience()):
                    callback: Callable[[int], None] = key.data
                    callback(events)
                self._enforce_deadlines()
                self._reaper.reap(self._by_pid)
        except EOFError:
            pass
        finally:
            for child in self._children.values():
                self._kill(child, "the sandbox is going down")
            self._reaper.kill_all()

    def _patience(self) -> float | None:
        if self._reaper.patience is not None or not self._deadlines:
            return self._reaper.patience
        return max(0.0, self._deadlines[0][0] - time.monotonic())

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
                pid = self._fork()
            except OSError as error:
                self.reply(failure(request["id"], "capacity", error))
                return
            if pid == 0:
                become_session(
                    theirs, self._toolset, prepared, request, scratch, self._limits, self._quiet, users
                )
            undo.pop_all()
        theirs.close()
        self._opened += 1
        child = _Child(name, pid, scratch, pending={request["id"]: "open"})
        child.channel = Channel(
            self._selector, ours, partial(self._forward, child), partial(self._kill, child)
        )
        self._children[name] = self._by_pid[pid] = child
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
        self._set_deadline(request, child.name)
        child.channel.send(body)

    def _close(self, request: dict[str, Any]) -> None:
        child = self._children.get(request["session"])
        if child is None:
            self.reply({"id": request["id"], "ok": True, "result": {}})
            return
        child.closing.append(request["id"])
        self._kill(child, "it was closed")

    def _forward(self, child: _Child, body: bytes) -> None:
        """Passes a reply on, if it is one: a tool may have written to the session's own socket."""
        request_id, frame = wire.relay(body)
        if child.pending.pop(request_id, None) is None:
            raise wire.WireError(f"a reply to a request that is not pending: {request_id!r:.80}")
        self._pipe.send(frame)

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
        send_kill(os.killpg, child.pid)
        if child.pid in self._by_pid:  # not reaped yet, so the number is still its own
            send_kill(os.kill, child.pid)

    def _bury(self, pid: int, status: int) -> None:
        child = self._by_pid.pop(pid, None)
        if child is None:
            return
        child.channel.drain()
        del self._children[child.name]
        code = os.waitstatus_to_exitcode(status)
        for request_id in child.pending:
            self._lost(request_id, f"the session is gone: {child.cause} (exit {code})")
        self._reaper.abandon(child.scratch)
        self._closed += child.closing

    def _answer_closed(self) -> None:
        for request_id in self._closed:
            self.reply({"id": request_id, "ok": True, "result": {}})
        self._closed.clear()

    def _lost(self, request_id: int, message: str) -> None:
        self.reply({"id": request_id, "ok": False, "error": _error("lost", message)})


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"kind": kind, "type": kind, "message": message, "trace": ""}
