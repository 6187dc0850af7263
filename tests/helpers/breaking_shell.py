"""The shell toolset with sessions that break in ways that code of a policy would have to find a gap for."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from sandbox_images.shell.processes import ProcessFamily, UnkillableProcesses
from sandbox_images.shell.toolset import ShellSession, ShellToolset
from sandbox_images.tool_host.toolset import Scores, ToolResult

PATH = "tests.helpers.breaking_shell:BreakingShell"
UNKILLABLE = "tests.helpers.breaking_shell:UnkillableShell"
_SESSION_FD = 3


class BreakingShell(ShellToolset):
    def open(self, task: dict[str, Any], prepared: Any, scratch: Path) -> "BreakingSession":
        session = BreakingSession(self, scratch)
        for file in task["files"]:
            session.put(file)
        return session


class BreakingSession(ShellSession):
    """Breaks when a command, or the policy's last words, are `break: ` and how."""

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        self._break(str(arguments.get("command", "")))
        return super().call(tool, arguments)

    def evaluate(self, trace: dict[str, Any]) -> Scores:
        words = str(trace["output"])
        if words == "break: cannot be closed":
            _stop_tool_host(later=0.5)
        self._break(words)
        return super().evaluate(trace)

    def _break(self, words: str) -> None:
        match words.removeprefix("break: "):
            case "exit":
                os._exit(3)
            case "babble":
                os.write(_SESSION_FD, b"\0\0\0\2{}")
                time.sleep(3600)
            case "raise":
                raise OSError(24, "Too many open files")
            case "stop the tool host":
                _stop_tool_host()
            case _:
                return


def _stop_tool_host(later: float = 0.0) -> None:
    """Stops it in a process of its own, so that it may still be busy with an answer of ours."""
    host = os.getppid()
    if os.fork() == 0:
        time.sleep(later)
        os.kill(host, signal.SIGSTOP)
        os._exit(0)


class UnkillableShell(ShellToolset):
    def preload(self) -> None:
        def kill(self: ProcessFamily, spared: Any = (), seconds: Any = None) -> None:
            raise UnkillableProcesses("the session's processes multiply faster than they can be killed")

        ProcessFamily.kill = kill  # type: ignore[method-assign]
