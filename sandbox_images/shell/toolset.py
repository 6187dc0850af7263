"""The shell toolset: a scratch workspace per episode, and tools that run what the model writes in it."""

import base64
import os
import resource
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any, ClassVar

from sandbox_images.shell.file_tools import FileTools
from sandbox_images.shell.grading import failed_scores, grade
from sandbox_images.shell.processes import ProcessFamily
from sandbox_images.shell.shell import HIGHEST_FD, CommandResult, Shell
from sandbox_images.shell.state import WorkspaceState
from sandbox_images.shell.subject import Subject
from sandbox_images.shell.tools import find_argument_error, tool_schemas
from sandbox_images.shell.workspace import FileError, Workspace
from sandbox_images.tool_host.json_patch import Patch
from sandbox_images.tool_host.session_variables import given_variables
from sandbox_images.tool_host.toolset import Scores, Session, ToolResult, Toolset, ToolsetError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_TEXT_LENGTH = 100_000
"""Most bytes of a command or program: Linux takes 128 KiB in one argument."""


class ShellToolset(Toolset):
    """Bash, Python and files.

    Args:
        output_cap: Most bytes of a tool's answer: of a longer one, the beginning and the end.
        max_file_bytes: Largest file that the file tools read or write.
        command_timeout: Seconds that a command may take when the policy does not say.
        max_command_timeout: Most seconds that the policy may ask for.
    """

    weakest_recycle: ClassVar = "episode"
    runs_model_code: ClassVar = True

    def __init__(
        self,
        output_cap: int = 16 * 1024,
        max_file_bytes: int = 4 * 1024 * 1024,
        command_timeout: float = 30.0,
        max_command_timeout: float = 120.0,
    ) -> None:
        self.output_cap = output_cap
        self.max_file_bytes = max_file_bytes
        self.command_timeout = command_timeout
        self.max_command_timeout = max_command_timeout
        self.tools = tool_schemas(command_timeout, max_command_timeout)

    def base_state(self, state_id: str) -> Any:
        """The empty workspace."""
        return WorkspaceState.EMPTY if state_id == WorkspaceState.ID else super().base_state(state_id)

    def open(self, task: dict[str, Any], prepared: Any, scratch: Path) -> "ShellSession":
        """A workspace with the task's files in it.

        Args:
            task: `files`: a list of `path` and either `text` or `base64`.
            prepared: Nothing.
            scratch: The session's folder: the workspace, and one for temporary files, are made in it.
        """
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most <= HIGHEST_FD:
            raise ToolsetError(f"session_limits.open_files: a shell needs {HIGHEST_FD + 1}, got {most}")
        session = self._make_session(scratch)
        for file in task["files"]:
            session.put(file)
        return session

    def _make_session(self, scratch: Path) -> "ShellSession":
        return ShellSession(self, scratch)


class ShellSession(Session):
    """One episode's workspace, shell and processes.

    Args:
        toolset: Its limits.
        scratch: The session's folder.
    """

    def __init__(self, toolset: ShellToolset, scratch: Path) -> None:
        root = scratch.resolve() / "workspace"
        temporary = scratch.resolve() / "tmp"
        root.mkdir()
        temporary.mkdir()
        self._limits = toolset
        self._environment = {
            "PATH": f"{_PATH}:{os.path.dirname(sys.executable)}",
            "HOME": str(root),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **given_variables(),
        }
        self._family = ProcessFamily()
        self._shell = Shell(str(root), self._environment, self._family, toolset.output_cap)
        self._workspace = Workspace(str(root), toolset.max_file_bytes)
        self._files = FileTools(self._workspace, toolset.output_cap)
        self._state = WorkspaceState(self._workspace)
        self._is_told = True
        self._schemas = {tool["name"]: tool for tool in toolset.tools}
        self.tools = toolset.tools
        self.observation = []
        self.state_id = WorkspaceState.ID

    def put(self, file: dict[str, str]) -> None:
        """Puts one of the task's files into the workspace.

        Raises:
            ToolsetError: It can't be put there.
        """
        content = file["text"].encode() if "text" in file else base64.b64decode(file["base64"])
        try:
            self._workspace.write_bytes(file["path"], content)
        except FileError as error:
            raise ToolsetError(f"the task's files can't be put into the workspace: {error}") from error

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Runs a tool. Whatever the model's code does, the answer is text, and not too long to be sent."""
        try:
            result = self._run_tool(tool, arguments)
        except FileError as error:
            result = ToolResult("", str(error))
        except MemoryError:
            result = ToolResult("", f"{tool} could not run: there is not enough memory for it")
        except Exception as error:  # noqa: BLE001 - see above
            result = ToolResult("", f"{tool} could not run: {error}")
        if result.error is not None:
            result.error = f"{result.error:.{self._limits.output_cap}}"
        return result

    def _run_tool(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        schema = self._schemas.get(tool)
        if schema is None:
            return ToolResult("", f"there is no tool {tool!r:.100}; there are {', '.join(self._schemas)}")
        required = schema["parameters"]["required"]
        given: dict[str, Any] = {
            name: value for name, value in arguments.items() if value is not None or name in required
        }
        problem = find_argument_error(schema, given)
        if problem is not None:
            return ToolResult("", problem)
        match tool:
            case "bash":
                return self._run_command(given["command"], given["command"], given.get("timeout"))
            case "python":
                program = f"command python3 -c {shlex.quote(given['code'])}"
                return self._run_command(program, given["code"], given.get("timeout"))
            case _:
                self._workspace.reopen()
                return ToolResult(getattr(self._files, tool)(**given))

    def state_patch(self) -> Patch | None:
        """What changed in the workspace since the last call of this.

        None from the first time on that it can't be told, since patches build on one another.
        """
        if not self._is_told:
            return None
        try:
            return self._state.patch(self._shell.folder)
        except Exception:  # noqa: BLE001 - what the model's code leaves there must not cost it its score
            traceback.print_exc()
            self._is_told = False
            return None

    def state(self) -> Any:
        """The workspace: where the shell is, and the files."""
        return self._state.take(self._shell.folder)

    def evaluate(self, trace: dict[str, Any]) -> Scores:
        """Ends all that the policy has left running, then has the hidden tests examine the workspace.

        Whatever the policy's code does to its examination is a score.

        Args:
            trace: `output`, the policy's last words or None; `tests`, the source of the hidden tests;
                `expected`, the answers that they know of; `seconds`, how long they may take together.

        Raises:
            ToolsetError: The tests are none, or do not load.
        """
        deadline = time.monotonic() + trace["seconds"]
        subject = Subject(
            self._workspace, self._family, self._environment, trace["output"], trace["expected"], deadline
        )
        try:
            self._family.kill()
            self._workspace.reopen()
            return grade(trace["tests"], subject)
        except ToolsetError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            return failed_scores(error)

    def _run_command(self, command: str, source: str, timeout: float | None) -> ToolResult:
        size = len(source.encode())
        if size > _MAX_TEXT_LENGTH:
            return ToolResult(
                "", f"{size:,} bytes are too many for one call: up to {_MAX_TEXT_LENGTH:,} can be run"
            )
        limit = self._limits.command_timeout if timeout is None else timeout
        if not limit > 0:
            return ToolResult("", f"timeout must be more than 0 seconds, got {limit}")
        limit = min(limit, self._limits.max_command_timeout)
        return ToolResult(_describe_command(self._shell.run(command, limit), limit))


def _describe_command(ran: CommandResult, limit: float) -> str:
    """What the policy reads of a command."""
    gap = "" if not ran.output or ran.output.endswith("\n") else "\n"
    if ran.status is None:
        what = f"killed with all that it started: it did not end within {limit:g} s"
        if ran.shell_ended:
            what += "; the shell could not be restored, the next command gets a fresh one"
    else:
        what = f"exit code {ran.status}"
        if ran.shell_ended:
            what += "; the shell has ended, the next command gets a fresh one"
    return f"{ran.output}{gap}[{what}]"
