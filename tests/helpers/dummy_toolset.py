"""A toolset whose tools do what no tool should: the sandbox must stay in one piece around them."""
# The `self` of a tool is the session that calls it, not an instance of the class that lists the tools.
# pyright: reportGeneralTypeIssues=false

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from sandbox_images.tool_host.toolset import Scores, Session, ToolResult, Toolset, ToolsetError

SESSION_FD = 3
"""The descriptor of a session's socket to the tool host."""


class DummyToolset(Toolset):
    """Args:
    weakest_recycle: See `Toolset`.
    runs_model_code: See `Toolset`.
    preload: `fail`, `exit` or `hang` in place of loading.
    """

    def __init__(
        self, weakest_recycle: Any = "fork", runs_model_code: bool = False, preload: str | None = None
    ) -> None:
        # Class variables of every other toolset: this one is of whatever kind a test asks for.
        vars(self).update(weakest_recycle=weakest_recycle, runs_model_code=runs_model_code)
        self._preload = preload

    def preload(self) -> None:
        print("preloading", flush=True)
        match self._preload:
            case "fail":
                raise RuntimeError("there is no database")
            case "exit":
                print("last words", file=sys.stderr, flush=True)
                os._exit(7)
            case "hang":
                time.sleep(3600)
            case _:
                return

    def prepare(self, task: dict[str, Any]) -> Any:
        if task.get("prepare") == "fail":
            raise ToolsetError("this task cannot be prepared")
        return task.get("prepare")

    def base_state(self, state_id: str) -> Any:
        if state_id == "broken":
            raise KeyError(state_id)
        return {"state_id": state_id}

    def open(self, task: dict[str, Any], prepared: Any, scratch: Path) -> "DummySession":
        if task.get("open") == "fail":
            raise ToolsetError("this task cannot be set up")
        if task.get("open") == "raise":
            raise ZeroDivisionError("a bug in open")
        if task.get("open") == "exit":
            os._exit(5)
        if task.get("open") == "hang":
            time.sleep(3600)
        return DummySession(task, prepared, scratch)


class DummySession(Session):
    def __init__(self, task: dict[str, Any], prepared: Any, scratch: Path) -> None:
        self.tools = [
            {
                "name": name,
                "description": f"{name}.",
                "parameters": {"type": "object", "properties": {}, "additionalProperties": True},
            }
            for name in sorted(set(vars(Tools)) - set(vars(object)) - {"__dict__", "__weakref__"})
        ]
        self.observation = [{"role": "user", "content": task.get("greeting", "hello")}]
        self.state_id = task.get("state_id", "base")
        self.values: dict[str, Any] = {}
        self.hoarded: list[bytes] = []
        self.prepared = prepared
        self.scratch = scratch
        self.script = task.get("script", [])
        self._patch: list[dict[str, Any]] = []
        self._unspeakable = task.get("open") == "unspeakable"
        if self._unspeakable:
            self.observation = [{"content": object()}]

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        function = getattr(Tools, tool, None)
        if function is None or tool.startswith("_"):
            return ToolResult("", f"there is no tool {tool}")
        answer = function(self, **arguments)
        return answer if isinstance(answer, ToolResult) else ToolResult(str(answer))

    def change(self, key: str, value: Any) -> None:
        self._patch.append({"op": "add", "path": f"/{key}", "value": value})
        self.values[key] = value

    def state_patch(self) -> list[dict[str, Any]]:
        if "break_patches" in self.values:
            raise RuntimeError("a bug in state_patch")
        patch, self._patch = self._patch, []
        return patch

    def state(self) -> Any:
        return self.values

    def evaluate(self, trace: dict[str, Any]) -> Scores:
        if trace.get("hang"):
            time.sleep(3600)
        return Scores({"score": float(self.values.get("score", 0.0)), "none": None}, {"trace": trace})

    def oracle(self) -> list[dict[str, Any]]:
        return self.script or [{"content": "done", "tool_calls": []}]


class Tools:
    """The tools, each called with its session and the arguments of the call."""

    def echo(self: DummySession, **values: Any) -> str:
        return json.dumps(values)

    def tell(self: DummySession, what: str) -> Any:
        return getattr(self, what)

    def put(self: DummySession, key: str, value: Any) -> str:
        self.change(key, value)
        return "put"

    def fail(self: DummySession, message: str = "no luck") -> ToolResult:
        return ToolResult("", message)

    def sleep(self: DummySession, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def raise_error(self: DummySession) -> None:
        raise ZeroDivisionError("a bug in a tool")

    def exit(self: DummySession, status: int) -> None:
        os._exit(status)

    def segfault(self: DummySession) -> None:
        ctypes.string_at(0)

    def shout(self: DummySession, size: int) -> str:
        for number in (1, 2):
            os.write(number, b"\0\0\0\2{}" + b"x" * min(size, 60_000))
        print("x" * size, flush=True)
        print("y" * size, file=sys.stderr, flush=True)
        return "shouted"

    def big(self: DummySession, size: int) -> str:
        return "x" * size

    def nested(self: DummySession, depth: int) -> str:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        self.values["nested"] = value
        return "nested"

    def half_a_character(self: DummySession) -> str:
        return "before \ud83d after"

    def not_a_result(self: DummySession) -> Any:
        return ToolResult(5, {"a": 1})  # type: ignore[arg-type]

    def daemon(self: DummySession, count: int = 1) -> str:
        """Leaves processes in sessions of their own, whose parent is gone; returns their ids."""
        reader, writer = os.pipe()
        for _ in range(count):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    os.write(writer, struct.pack(">I", os.getpid()))
                    time.sleep(3600)
                os._exit(0)
        pids = [struct.unpack(">I", os.read(reader, 4))[0] for _ in range(count)]
        return json.dumps(pids)

    def leave_the_group(self: DummySession) -> str:
        """The daemon with its own descendants: each of them leads a group of its own."""
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            for _ in range(3):
                if os.fork():
                    time.sleep(3600)
                os.setsid()
                os.write(writer, struct.pack(">I", os.getpid()))
            time.sleep(3600)
        return json.dumps([struct.unpack(">I", os.read(reader, 4))[0] for _ in range(3)])

    def shed_orphans(self: DummySession) -> str:
        """A daemon that its session refuses to adopt."""
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
        return vars(Tools)["daemon"](self)

    def write_everywhere(self: DummySession, hex_bytes: str) -> str:
        written = []
        for name in os.listdir("/proc/self/fd"):
            try:
                os.write(int(name), bytes.fromhex(hex_bytes))
                written.append(int(name))
            except OSError:
                continue
        return json.dumps(written)

    def forge(self: DummySession, frames: list[Any]) -> str:
        """Writes frames to the session's own socket, as the tool host would take them."""
        for frame in frames:
            body = frame.encode() if isinstance(frame, str) else json.dumps(frame).encode()
            os.write(SESSION_FD, struct.pack(">I", len(body)) + body)
        time.sleep(3600)
        return "not reached"

    def hang_up(self: DummySession, how: str = "close") -> str:
        if how == "close":
            os.close(SESSION_FD)
        else:
            socket.socket(fileno=os.dup(SESSION_FD)).shutdown(socket.SHUT_RD)
        time.sleep(3600)
        return "not reached"

    def descriptors(self: DummySession) -> str:
        numbers = os.listdir("/proc/self/fd")  # the listing's own descriptor among them
        links = {number: f"/proc/self/fd/{number}" for number in numbers}
        return json.dumps(
            {number: os.readlink(link) for number, link in links.items() if os.path.lexists(link)}
        )

    def allocate(self: DummySession, megabytes: int) -> str:
        self.values["ballast"] = len(bytearray(megabytes << 20))
        return "allocated"

    def hoard(self: DummySession, megabytes: int) -> str:
        self.hoarded = [b"\1" * (1 << 20) for _ in range(megabytes)]
        return "hoarded"

    def fill_scratch(self: DummySession, files: int = 0, depth: int = 0, locked: bool = False) -> str:
        for number in range(files):
            Path(f"file-{number}").write_text("x")
        home = os.getcwd()
        for _ in range(depth):
            os.mkdir("deeper")
            os.chdir("deeper")
        os.chdir(home)
        if locked:
            Path("locked").mkdir()
            Path("locked", "file").write_text("x")
            Path("locked").chmod(0)
        return home

    def write(self: DummySession, path: str, size: int = 1) -> str:
        Path(path).write_bytes(b"x" * size)
        return "written"

    def read(self: DummySession, path: str) -> str:
        return Path(path).read_text(errors="replace")

    def look(self: DummySession, path: str) -> str:
        return json.dumps(sorted(os.listdir(path)))

    def who(self: DummySession) -> str:
        return json.dumps(
            {
                "uid": os.getuid(),
                "gid": os.getgid(),
                "groups": os.getgroups(),
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "interfaces": [name for _, name in socket.if_nameindex()],
                "cwd": os.getcwd(),
            }
        )

    def connect(self: DummySession, host: str, port: int) -> str:
        with socket.create_connection((host, port), timeout=2):
            return "connected"

    def setuid(self: DummySession) -> str:
        os.setuid(0)
        return "root"

    def trace(self: DummySession, pid: int) -> str:
        """Attaches to a process as a debugger would; says what the kernel answered."""
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.ptrace(16, pid, 0, 0) != 0
        return os.strerror(ctypes.get_errno()) if refused else "attached"

    def kill(self: DummySession, pid: int) -> str:
        os.kill(pid, signal.SIGKILL)
        return "sent"

    def fork_bomb(self: DummySession) -> str:
        made = 0
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(3600)
                made += 1
            except OSError as error:
                return f"{made} and then {error.strerror}"

    def attempt(self: DummySession, code: str) -> str:
        """Runs code in the session's process; says what it set `seen` to, or what it was refused with."""
        names: dict[str, Any] = {"os": os, "ctypes": ctypes, "socket": socket, "signal": signal, "json": json}
        try:
            exec(code, names)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test wants to know
            return f"{type(error).__name__}: {error}"
        return str(names.get("seen", "done"))

    def use_cpu(self: DummySession) -> None:
        while True:
            pass
