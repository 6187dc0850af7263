"""A machine for a worker's programs: it starts them, tells what they print, and carries their files.

No policy calls these tools. The worker does, for a harness of verifiers' v1 API and for the hooks of tasks.
`events` waits; it gives way at once to the next request, so that one program can be watched while another
is started.
"""

import base64
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from sandbox_images.machine.processes import Program, find_user
from sandbox_images.shell.output import wait_until_ready
from sandbox_images.shell.processes import ProcessFamily, UnkillableProcesses
from sandbox_images.tool_host.session_variables import given_variables
from sandbox_images.tool_host.toolset import Session, ToolResult, Toolset, ToolsetError

PROGRAMS = Path("/opt/harness")
"""Where an image has the packages of harnesses' programs: a virtual environment for each list of them."""
_CHANNEL = 3
"""The descriptor that the session's requests come by."""
_CHUNK = 4 * 1024 * 1024
"""Most bytes of a file in one answer."""
_LOOK = 0.05
"""Seconds between two looks at whether a program has ended whose output is still held open."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OURS = frozenset({"PYTHONPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PWD", "OLDPWD"})
"""Variables of the tool host's own, which programs do not get."""
_TEMPORARY = "/tmp"
"""Where users put temporary files whose session's own folder it is not."""


class MachineToolset(Toolset):
    """A container for the programs of one episode."""

    weakest_recycle: ClassVar = "episode"
    runs_model_code: ClassVar = True

    def open(self, task: dict[str, Any], prepared: Any, scratch: Path) -> "MachineSession":
        """A machine whose programs start in a folder.

        Args:
            task: `workdir`: the folder, which is made where it is not there; null: one of the session's own.
            prepared: Nothing.
            scratch: The session's folder.
        """
        return MachineSession(task["workdir"], scratch.resolve())


class MachineSession(Session):
    """The programs of one episode, and its files.

    Args:
        workdir: Where programs start. None: in a folder of the session's own.
        scratch: The session's folder.

    Raises:
        ToolsetError: There is no such folder, and it can't be made.
    """

    def __init__(self, workdir: str | None, scratch: Path) -> None:
        home, temporary, own = scratch / "home", scratch / "tmp", scratch / "work"
        for folder in (home, temporary, own):
            folder.mkdir()
        self._workdir = workdir or str(own)
        try:
            os.makedirs(self._workdir, exist_ok=True)
        except OSError as error:
            raise ToolsetError(
                f"workdir: {self._workdir} is not in the image and can't be made: {error.strerror}; set "
                "sandbox.user to root and sandbox.root_mb, or leave workdir out"
            ) from error
        if os.geteuid() == 0:
            scratch.chmod(0o711)  # programs may be other users', which have to get through to the folder
        inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
        self._environment = {
            "LANG": "C.UTF-8",
            **inherited,
            "PATH": f"{inherited.get('PATH', _PATH)}:{os.path.dirname(sys.executable)}",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            **given_variables(),
        }
        self._family = ProcessFamily()
        self._programs: dict[int, Program] = {}
        self.tools = []
        self.observation = []

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Does what the worker asks; what goes wrong is an answer, too."""
        try:
            return ToolResult(json.dumps(self._do(tool, arguments)))
        except (OSError, LookupError, ValueError, UnkillableProcesses, MemoryError) as error:
            return ToolResult("", f"{error or type(error).__name__}")

    def _do(self, tool: str, arguments: dict[str, Any]) -> Any:
        match tool:
            case "describe":
                return {
                    "workdir": self._workdir,
                    "home": self._environment["HOME"],
                    "programs": _list_programs(),
                }
            case "start":
                return self._start(**arguments)
            case "events":
                return self._events(arguments["seconds"])
            case "write_stdin":
                self._programs[arguments["program"]].write(_decoded(arguments["data"]))
                return None
            case "signal":
                return self._signal(arguments["program"], arguments["number"])
            case "read":
                return self._read(**arguments)
            case "write":
                return self._write(**arguments)
            case _:
                raise ValueError(f"there is no tool {tool!r:.100}")

    def _start(
        self,
        argv: list[str],
        environment: Mapping[str, str],
        *,
        stdin: bool = False,
        log: str | None = None,
        user: str | None = None,
    ) -> int:
        """Starts a program, and returns its number.

        Args:
            argv: The program and its arguments.
            environment: Variables beside the machine's own.
            stdin: Whether it is to be written to.
            log: A file that takes all of its output, which is then not told of.
            user: Name of the user that it runs as. None: the session's.
        """
        own = {} if user is None else {"TMPDIR": _TEMPORARY}
        program = Program(
            self._family,
            argv,
            {**self._environment, **own, **environment},
            self._workdir,
            stdin=stdin,
            log=None if log is None else self._path(log),
            user=None if user is None else find_user(user),
        )
        self._programs[program.pid] = program
        return program.pid

    def _events(self, seconds: float) -> list[dict[str, Any]]:
        """What programs have printed, and which have ended: all that there is, or the first that comes."""
        deadline = time.monotonic() + seconds
        while True:
            found = self._take()
            left = deadline - time.monotonic()
            if found or left <= 0 or self.is_awaited:
                return found
            readers = [each for program in self._programs.values() for each in program.readers]
            writers = [each for program in self._programs.values() for each in program.writers]
            ready, _ = wait_until_ready([_CHANNEL, *readers], writers, min(left, _LOOK))
            if _CHANNEL in ready:
                return self._take()

    def _take(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for pid, program in list(self._programs.items()):
            told = program.take()
            if told is not None:
                found.append({"program": pid, **told})
                if told["status"] is not None:
                    del self._programs[pid]
        return found

    def _signal(self, pid: int, number: int) -> None:
        """Sends a signal to a program and all that is in its group."""
        if pid in self._programs:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.Signals(number))

    def _read(self, path: str, offset: int, size: int) -> dict[str, Any]:
        """Bytes of a file, and whether it ends there."""
        descriptor = os.open(self._path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{path}: no regular file")
            data = os.pread(descriptor, min(size, _CHUNK), offset)
            return {"data": base64.b64encode(data).decode(), "ended": len(data) < min(size, _CHUNK)}
        finally:
            os.close(descriptor)

    def _write(self, path: str, data: str, *, append: bool) -> None:
        """Writes bytes to a file, whose folders are made."""
        target = self._path(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(target, flags | (os.O_APPEND if append else os.O_TRUNC), 0o644)
        with open(descriptor, "wb") as file:
            file.write(_decoded(data))

    def _path(self, path: str) -> str:
        return os.path.join(self._workdir, path)


def _list_programs() -> dict[str, list[str]]:
    """The virtual environments for harnesses' programs: for each Python, what it was made for."""
    found: dict[str, list[str]] = {}
    for listing in sorted(PROGRAMS.glob("*/packages.txt")):
        first = listing.read_text().partition("\n")[0]
        _, colon, names = first.partition("dependencies:")
        if colon:
            found[str(listing.parent / "bin" / "python")] = _split(names)
    return found


def _split(names: str) -> list[str]:
    """Requirements of a list, some of which have commas of their own."""
    parts: list[str] = []
    for part in map(str.strip, names.split(",")):
        if parts and part[:1] in "<>=!~":
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return parts


def _decoded(data: str) -> bytes:
    return base64.b64decode(data)
