"""The child's side of a session: one process, one episode, one socket to the tool host."""

import os
import resource
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from sandbox_images.tool_host import printed, process, session_variables, wire
from sandbox_images.tool_host.json_patch import Patch
from sandbox_images.tool_host.session_filter import refuse_system_calls
from sandbox_images.tool_host.toolset import Session, Toolset, ToolsetError
from sandbox_images.tool_host.write_limits import apply_rules

_SOCKET_FD = 3
_ALL_PATCHES = 8 * 1024 * 1024
_ALL_VALUES = wire.MAX_VALUES // 2
"""Most bytes and values of an episode's patches as JSON. They come in one reply with its scores, which must
not grow too large to be sent: a policy could have its episode thrown away."""


def become_session(
    channel: socket.socket,
    toolset: Toolset,
    prepared: Any,
    request: dict[str, Any],
    scratch: Path,
    limits: dict[str, Any],
    quiet: bool,
    users: tuple[int, int] | None,
    contained: bool = False,
    write_rules: int | None = None,
    variables: dict[str, str] | None = None,
) -> NoReturn:
    """Turns this forked process into the session that `request` asks for, and never returns.

    `users` is what `process.become_user` takes; None: it stays the tool host's. `contained` says whether this
    is a container: what it may ask of the kernel is then cut down. `write_rules` are those of `make_rules`.
    `variables` are the worker's, for the environment of this process and of what its tools start.
    """
    status = 1
    try:
        os.setsid()
        if write_rules is not None:
            apply_rules(write_rules)
        if users is not None:
            process.become_user(*users)
            process.hide_memory()  # the kernel sets it anew with the user, as `fs.suid_dumpable` says
        process.die_with_parent()
        process.adopt_orphans()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        channel = _keep_only(channel, quiet)
        process.apply_limits(limits)
        if contained:
            refuse_system_calls(toolset.runs_model_code)
        os.chdir(scratch)
        session_variables.set_given(variables or {})
        _serve(channel, toolset, prepared, request, scratch)
        status = 0
    except BaseException:  # noqa: BLE001 - a forked child must never unwind into the host's frames
        traceback.print_exc()
    finally:
        os._exit(status)


def _keep_only(channel: socket.socket, quiet: bool) -> socket.socket:
    """Drops every descriptor but the channel: the pipe to the worker is not inherited."""
    os.dup2(channel.detach(), _SOCKET_FD)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if quiet:
        os.dup2(null, 1)
        os.dup2(null, 2)
    os.closerange(_SOCKET_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.set_inheritable(_SOCKET_FD, False)
    return socket.socket(fileno=_SOCKET_FD)


def _serve(
    channel: socket.socket, toolset: Toolset, prepared: Any, request: dict[str, Any], scratch: Path
) -> None:
    channel.setblocking(True)
    try:
        printed.listen()
        session = toolset.open(request["task"], prepared, scratch)
        opened = {
            "tools": session.tools if session.tools_id is None else None,
            "tools_id": session.tools_id,
            "observation": session.observation,
            "state_id": session.state_id,
        }
        begun = printed.framed({"id": request["id"], "ok": True, "result": opened})
        loop = _Loop(channel, session)
    except Exception as error:  # noqa: BLE001 - a toolset may raise anything; it becomes the answer
        channel.sendall(printed.framed(failure(request["id"], "setup", error)))
        return
    channel.sendall(begun)
    loop.run()


class _Loop:
    """Answers requests one after the other until the host hangs up."""

    def __init__(self, channel: socket.socket, session: Session) -> None:
        self._channel = channel
        self._session = session
        self._patches: list[Patch | None] = []
        self._room = _ALL_PATCHES
        self._values = _ALL_VALUES
        self._keep(session.state_patch())
        self._broken: Exception | None = None
        """What `state_patch` raised, to be told with the next answer."""

    def run(self) -> None:
        frames = wire.FrameBuffer()
        while data := self._channel.recv(65536):
            bodies = list(frames.feed(data))
            for left, body in zip(reversed(range(len(bodies))), bodies, strict=True):
                self._session.is_awaited = left > 0
                self._answer(wire.decode(body))

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            reply = {"id": request["id"], "ok": True, "result": self._result(request)}
            frame = printed.framed(reply)
        except Exception as error:  # noqa: BLE001 - see above
            frame = printed.framed(failure(request["id"], request["op"], error))
        self._channel.sendall(frame)
        if request["op"] == "call":
            self._note_patch()

    def _note_patch(self) -> None:
        try:
            self._keep(self._session.state_patch())
        except Exception as error:  # noqa: BLE001 - see above
            self._broken = error

    def _keep(self, patch: Patch | None) -> None:
        """Keeps a patch; from the first one that there is no room for, none: they build on one another."""
        if patch and self._has_room:
            text = wire.text(patch)
            self._room -= len(text)
            self._values -= wire.count_values(text)
        self._patches.append(patch if self._has_room else None)

    @property
    def _has_room(self) -> bool:
        return self._room >= 0 and self._values >= 0

    def _result(self, request: dict[str, Any]) -> Any:
        match request["op"]:
            case "call":
                return asdict(self._session.call(request["tool"], request["arguments"]))
            case "state":
                return self._session.state()
            case "evaluate":
                scores = self._session.evaluate(request["trace"])
                return {**asdict(scores), "patches": self._patches}
            case "oracle":
                return self._session.oracle()
            case other:
                raise ToolsetError(f"there is no operation {other!r}")


def failure(request_id: int, kind: str, error: BaseException) -> dict[str, Any]:
    """The reply that says an operation failed, with the last frames of the traceback for its author."""
    frames = "" if isinstance(error, ToolsetError) else "".join(traceback.format_tb(error.__traceback__)[-4:])
    print(f"{kind}: {type(error).__name__}: {error}\n{frames}", file=sys.__stderr__)
    return {
        "id": request_id,
        "ok": False,
        "error": {"kind": kind, "type": type(error).__name__, "message": str(error)[:4000], "trace": frames},
    }
