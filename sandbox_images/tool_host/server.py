"""The tool host's own side: takes requests from the worker's pipe, forks sessions, relays, kills."""

import errno
import heapq
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sandbox_images.tool_host import process, wire
from sandbox_images.tool_host.channel import ENDED_BY_ITSELF, Channel
from sandbox_images.tool_host.memory import MemoryWatch, find_largest, terminal_owners
from sandbox_images.tool_host.pipe import WorkerPipe
from sandbox_images.tool_host.reaper import Reaper, send_kill
from sandbox_images.tool_host.relay import Relay
from sandbox_images.tool_host.session import become_session, failure
from sandbox_images.tool_host.toolset import Toolset, ToolsetError
from sandbox_images.tool_host.write_limits import make_rules

_ALONE = 1.0
"""Seconds between two looks where there is but one session."""
_MOST_TERMINALS = 64
_TOOK_MEMORY = "it took the memory of the sandbox"
_OTHER_TOOK_MEMORY = "another session took the memory of the sandbox"
_MEMORY_COMES_BACK = 3.0
"""Seconds after the end of the session that took the memory in which others may still be killed for it."""


@dataclass
class _Child:
    """A live session as the host sees it."""

    name: str
    pid: int
    scratch: Path
    users: tuple[int, int] | None
    """Whose it is, and whom it acts as, where these users are its alone."""
    pending: dict[int, str] = field(default_factory=dict[int, str])
    """Requests that the child has not answered yet: operation by id."""
    closing: list[int] = field(default_factory=list[int])
    """Close requests to answer when the process is gone."""
    cause: str | None = None
    """Why the host killed it, where it did."""
    kind: str = "lost"
    """What sort of failure that is: the kind that a reply names."""
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
        users: User ids of sessions, each its own; None: all have the tool host's.
        contained: Whether this is a container: System V IPC and the like are its own, and what sessions leave
            there is removed; sessions are kept from more system calls.
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
        users: range | None = None,
        contained: bool = False,
    ) -> None:
        self._toolset = toolset
        self._scratch = scratch
        self._limits = limits
        self._quiet = quiet
        self._fork = fork
        self._users = users
        self._contained = contained
        self._write_rules = make_rules() if contained else None
        self._memory = MemoryWatch()
        self._look_again_at = 0.0
        self._blamed_until = 0.0
        self._selector = selectors.DefaultSelector()
        self._pipe = WorkerPipe(
            self._selector, reader, writer, self._handle, lambda body: self._connections.handle(body)
        )
        self._connections = Relay(self._selector, self._pipe.send, scratch)
        self._reaper = Reaper(self._selector, self._bury, self._answer_closed, contained)
        self._children: dict[str, _Child] = {}
        self._by_pid: dict[int, _Child] = {}
        self._ended: dict[str, _Child] = {}
        """Sessions that ended before they were closed."""
        self._deadlines: list[tuple[float, str, int]] = []
        self._closed: list[int] = []
        self._opened = 0
        self.reply = self._pipe.reply

    def run(self) -> None:
        """Serves until the worker closes its end of the pipe, then kills every session.

        Nothing that a session does can end it: what one does is met where it is met, and costs that session.
        """
        self._pipe.open()
        try:
            while True:
                self._pipe.flush()
                for key, events in self._selector.select(self._patience()):
                    callback: Callable[[int], None] = key.data
                    self._guard(partial(callback, events))
                self._enforce_deadlines()
                self._guard(self._watch_memory)
                self._guard(partial(self._reaper.reap, self._by_pid))
                self._guard(self._connections.wake_listeners)
        except EOFError:
            pass
        finally:
            for child in self._children.values():
                self._kill(child, "the sandbox is going down", "closed")
            self._reaper.kill_all()

    def _guard(self, act: Callable[[], None]) -> None:
        """Does what is done again soon, and goes on where it fails: for want of memory or descriptors."""
        try:
            act()
        except (EOFError, wire.WireError):  # the worker has hung up, or has lost its mind
            raise
        except Exception:  # noqa: BLE001 - the tool host outlives whatever a session has brought about
            traceback.print_exc(file=sys.stderr)

    def _patience(self) -> float | None:
        waits = [self._reaper.patience, self._watch_patience(), self._connections.patience]
        if self._deadlines:
            waits.append(max(0.0, self._deadlines[0][0] - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def _watch_patience(self) -> float | None:
        """Seconds until memory and terminals are to be looked at. One session alone takes nobody's memory."""
        if not self._contained or not self._children:
            return None
        return _ALONE if len(self._children) == 1 else self._memory.patience or _ALONE

    def _watch_memory(self) -> None:
        """Ends the session that takes all the memory, before the kernel has to choose one."""
        patience, now = self._watch_patience(), time.monotonic()
        if patience is None or now < self._look_again_at:
            return
        self._memory.killed_lately()
        self._watch_terminals()
        exhausted = self._memory.is_exhausted()
        self._look_again_at = now + (self._watch_patience() or patience)
        if (
            exhausted and len(self._by_pid) > 1 and now >= self._blamed_until
        ):  # of one alone, the kernel takes the largest process
            largest = self._find_largest()
            if largest is not None:
                self._end_culprit(largest)

    def _watch_terminals(self) -> None:
        """Ends the session that takes more pseudoterminals than any needs: the machine has a few thousand."""
        owners = terminal_owners()
        for child in list(self._children.values()):
            users = child.users or ((os.geteuid(),) if len(self._children) == 1 else ())
            if child.cause is None and sum(owners.get(user, 0) for user in set(users)) > _MOST_TERMINALS:
                self._kill(child, f"it had more than {_MOST_TERMINALS} pseudoterminals open")

    def _find_largest(self, dead: dict[int, int] | None = None) -> _Child | None:
        living = {pid: child for pid, child in self._by_pid.items() if child.cause is None}
        users = {pid: child.users or () for pid, child in living.items()}
        largest = find_largest(users, dead, self._memory.limit // 4)
        return None if largest is None else self._by_pid[largest]

    def _handle(self, request: dict[str, Any], body: bytes) -> None:
        try:
            self._serve(request, body)
        except OSError as error:  # for want of descriptors or memory
            self.reply(failure(request["id"], "capacity", error))

    def _serve(self, request: dict[str, Any], body: bytes) -> None:
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
        users = None
        variables: dict[str, str] = request.get("variables", {})
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
                if wanted := request.get("listen"):
                    variables |= self._connections.listen(name, wanted, users and users[1])
                    undo.callback(self._connections.close, name)
                pid = self._fork()
            except OSError as error:
                kind = "port" if error.errno == errno.EADDRINUSE else "capacity"
                self.reply(failure(request["id"], kind, error))
                return
            if pid == 0:
                become_session(
                    theirs,
                    self._toolset,
                    prepared,
                    request,
                    scratch,
                    self._limits,
                    self._quiet,
                    users,
                    self._contained,
                    self._write_rules,
                    variables,
                )
            undo.pop_all()
        theirs.close()
        self._opened += 1
        child = _Child(name, pid, scratch, users, pending={request["id"]: "open"})
        self._children[name] = self._by_pid[pid] = child
        child.channel = Channel(
            self._selector, ours, partial(self._forward, child), partial(self._kill, child)
        )
        self._set_deadline(request, name)

    def _next_users(self) -> tuple[int, int] | None:
        """Whose the next session is, and whom it acts as: another where it starts what the model wrote."""
        if self._users is None:
            return None
        pairs = len(self._users) // 2
        taken = {child.users for child in self._children.values()}
        while True:
            user = self._users[self._opened % pairs * 2]
            pair = user, user + self._toolset.runs_model_code
            if pair not in taken:
                return pair
            self._opened += 1

    def _relay(self, request: dict[str, Any], body: bytes) -> None:
        name = request["session"]
        child = self._children.get(name) or self._ended.get(name)
        if child is None:
            self._lost(request["id"], "the session is not there: it was never opened, or it has ended")
            return
        if child.cause is not None:
            self._lost(request["id"], f"the session is not there any more: {child.cause}", child.kind)
            return
        child.pending[request["id"]] = request["op"]
        self._set_deadline(request, child.name)
        child.channel.send(body)

    def _close(self, request: dict[str, Any]) -> None:
        child = self._children.get(request["session"])
        self._ended.pop(request["session"], None)
        if child is None:
            self.reply({"id": request["id"], "ok": True, "result": {}})
            return
        child.closing.append(request["id"])
        self._kill(child, "it was closed", "closed")

    def _forward(self, child: _Child, body: bytes) -> None:
        """Passes a reply on, if it is one: a tool may have written to the session's own socket."""
        request_id, frame, kind = wire.relay(body)
        operation = child.pending.pop(request_id, None)
        if operation is None:
            raise wire.WireError(f"a reply to a request that is not pending: {request_id!r:.80}")
        if kind not in (None, "setup" if operation == "open" else operation):
            child.pending[request_id] = operation
            raise wire.WireError(f"a failure of the kind {kind!r:.80}, which is not a session's to tell of")
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

    def _kill(self, child: _Child, cause: str, kind: str = "lost") -> None:
        if child.cause is None:
            child.cause, child.kind = cause, kind
        if child.pid in self._by_pid:  # not reaped yet, so the number is still its own
            send_kill(os.killpg, child.pid)
            send_kill(os.kill, child.pid)
            self._reaper.expect(child.pid)
        if child.users is not None:
            for user in set(child.users):
                process.kill_user(user)

    def _bury(self, pid: int, status: int, peak: int) -> None:
        child = self._by_pid.get(pid)
        if child is None:
            return
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self._blame_for_memory(child, peak)
        child.channel.drain()
        self._kill(child, ENDED_BY_ITSELF)
        self._connections.close(child.name)
        del self._by_pid[pid], self._children[child.name]
        if not child.closing:
            self._ended[child.name] = child
        code = os.waitstatus_to_exitcode(status)
        for request_id in child.pending:
            self._lost(request_id, f"the session is gone: {child.cause} (exit {code})", child.kind)
        self._reaper.abandon(child.scratch, child.users and child.users[1])
        self._closed += child.closing

    def _blame_for_memory(self, victim: _Child, peak: int) -> None:
        """Finds out who has done it where the kernel has just killed for memory: it takes whom it finds."""
        if victim.cause not in (None, ENDED_BY_ITSELF) or not self._memory.killed_lately():
            return
        if time.monotonic() < self._blamed_until:
            victim.cause, victim.kind = _OTHER_TOOK_MEMORY, "closed"
            return
        culprit = self._find_largest({victim.pid: peak}) if len(self._by_pid) > 1 else victim
        if culprit is victim:
            victim.cause, victim.kind = _TOOK_MEMORY, "memory"
        elif culprit is None:
            victim.cause, victim.kind = "the memory of the sandbox ran out, by nobody's doing alone", "closed"
        else:
            victim.cause, victim.kind = _OTHER_TOOK_MEMORY, "closed"
            self._end_culprit(culprit)

    def _end_culprit(self, culprit: _Child) -> None:
        """Ends the session that took the memory; whom the kernel kills until that is free did not."""
        self._blamed_until = time.monotonic() + _MEMORY_COMES_BACK
        self._kill(culprit, _TOOK_MEMORY, "memory")

    def _answer_closed(self) -> None:
        for request_id in self._closed:
            self.reply({"id": request_id, "ok": True, "result": {}})
        self._closed.clear()

    def _lost(self, request_id: int, message: str, kind: str = "lost") -> None:
        self.reply({"id": request_id, "ok": False, "error": _error(kind, message)})


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"kind": kind, "type": kind, "message": message, "trace": ""}
