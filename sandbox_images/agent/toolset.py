"""The shell toolset for agents that bring their own loop: one program, started in the workspace and watched.

Nothing here is offered to a policy. The worker starts the program with `start_agent`, asks with `wait_agent`
what has become of it, and ends it with `stop_agent`, which kills all that it has started.
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sandbox_images.shell.output import read_available, wait_until_ready
from sandbox_images.shell.processes import ProcessFamily, UnkillableProcesses
from sandbox_images.shell.toolset import ShellSession, ShellToolset
from sandbox_images.shell.workspace import FileError, Workspace
from sandbox_images.tool_host.toolset import Scores, ToolResult

_LOOK = 0.1
"""Seconds between two looks at whether the agent has ended."""
_TAIL = 16 * 1024
"""Most bytes of the agent's output that are kept: its last ones."""
_READ_AT_ONCE = 1 << 16
_MOST_ANSWER = 64 * 1024


class AgentToolset(ShellToolset):
    """A workspace for an agent. See `ShellToolset` for its arguments."""

    def _make_session(self, scratch: Path) -> "AgentSession":
        return AgentSession(self, scratch)


class AgentSession(ShellSession):
    """One episode's workspace, and the agent in it.

    Args:
        toolset: Its limits.
        scratch: The session's folder.
    """

    def __init__(self, toolset: AgentToolset, scratch: Path) -> None:
        super().__init__(toolset, scratch)
        self._home = scratch.resolve() / "agent"
        self._home.mkdir()
        self._answers = Workspace(str(self._home), _MOST_ANSWER)
        self._temporary = scratch.resolve() / "tmp"
        self._agent: _Agent | None = None
        self._ended: dict[str, Any] = {}
        self.tools = []

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Starts, watches or ends the agent; what goes wrong is an answer, too."""
        try:
            return ToolResult(json.dumps(self._do(tool, arguments)))
        except (OSError, FileError, UnkillableProcesses) as error:
            return ToolResult("", f"{tool}: {error}")

    def _do(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        match tool:
            case "start_agent":
                return self._start(**arguments)
            case "wait_agent":
                return self._wait(arguments["seconds"])
            case "stop_agent":
                return self._stop()
            case _:
                raise FileError(f"there is no tool {tool!r:.100}")

    def _start(
        self,
        command: list[str],
        environment: Mapping[str, str],
        files: Mapping[str, str],
        as_they_are: list[str],
    ) -> dict[str, Any]:
        """Starts the agent. `{home}` and `{workspace}` stand for its folders in all that it is given.

        Args:
            command: The program and its arguments.
            environment: Variables beside those that a shell in the workspace has.
            files: Texts to write into the agent's home first, by their paths in it.
            as_they_are: Those of these in which nothing stands for anything else.
        """
        places = {"{home}": str(self._home), "{workspace}": self._workspace.root}
        home = Workspace(str(self._home), self._limits.max_file_bytes)
        for path, text in files.items():
            whole = text if path in as_they_are else _filled(text, places)
            home.write_bytes(path, whole.encode())
        variables = {name: _filled(value, places) for name, value in environment.items()}
        self._agent = _Agent(
            [_filled(part, places) for part in command],
            {**self._environment, "HOME": str(self._home), **variables},
            self._workspace.root,
            self._family,
        )
        return {"started": True}

    def _wait(self, seconds: float) -> dict[str, Any]:
        """Waits for the agent to end, for so long at most."""
        if self._agent is None:
            return {"running": False, "status": None, "output": ""}
        deadline = time.monotonic() + seconds
        while self._agent.status() is None and time.monotonic() < deadline:
            self._agent.read(min(_LOOK, max(0.0, deadline - time.monotonic())))
        return self._told()

    def _stop(self) -> dict[str, Any]:
        """Kills the agent and all that it has started.

        What can't be killed now is killed before grading, or costs the episode its score there.
        """
        with suppress(OSError, UnkillableProcesses):
            self._family.kill()
        if self._agent is not None:
            self._agent.read(0.0)
        return self._told()

    def _told(self) -> dict[str, Any]:
        agent = self._agent
        if agent is None:
            return {"running": False, "status": None, "output": ""}
        status = agent.status()
        self._ended = {"status": status, "output": agent.tail()}
        return {"running": status is None, **self._ended, "answer": self._answer_file()}

    def _answer_file(self) -> str | None:
        """What the agent has written as its last words, where it was told to write them to a file."""
        self._answers.reopen()  # it may have removed its home, or made it anew
        with suppress(FileError):
            return self._answers.read_text("answer.txt")
        return None

    def evaluate(self, trace: dict[str, Any]) -> Scores:
        """Grades the workspace as the shell toolset does; the agent's end is among the details."""
        scores = super().evaluate(trace)
        scores.details["agent"] = {**self._ended, **trace.get("agent", {})}
        return scores


class _Agent:
    """A running program, and the end of what it prints."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], folder: str, family: ProcessFamily
    ) -> None:
        self._family = family
        self._tail = bytearray()
        self._is_open = True
        self._output, output = os.pipe()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._pid = family.spawn(command, environment, folder, {0: null, 1: output, 2: output})
        finally:
            os.close(output)
            os.close(null)
        os.set_blocking(self._output, False)

    def status(self) -> int | None:
        """Its exit code; None while it runs."""
        status = self._family.status(self._pid)
        if status is not None:
            self._take()
        return status

    def read(self, seconds: float) -> None:
        """Takes what it prints within so many seconds."""
        if not self._is_open:
            time.sleep(seconds)
            return
        readable, _ = wait_until_ready([self._output], [], seconds)
        if readable:
            self._take()

    def tail(self) -> str:
        """The end of what it has printed."""
        return self._tail.decode("utf-8", "replace")

    def _take(self) -> None:
        """Takes what is there; no more than a pipe holds, if it never ends."""
        left = _READ_AT_ONCE
        while self._is_open and left > 0:
            data = read_available(self._output, left)
            if data is None:
                self._is_open = False
                os.close(self._output)
            elif not data:
                return
            else:
                left -= len(data)
                self._tail += data
                del self._tail[:-_TAIL]


def _filled(text: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(name, place)
    return text
