"""What the hidden tests examine: the workspace as the policy left it, seen only from outside.

A submission is code that its author may have written to please the tests. So it never runs where they do:
it gets a process of its own, which knows a test's inputs but neither its code nor what it expects, and from
which nothing comes back but a value in JSON, an exit code, or text. Whatever it patches, prints, deletes or
exits from is its own. This process can't be traced or read by it: the tool host hides its memory.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from sandbox_images.shell.bans import GUARD
from sandbox_images.shell.output import read_available, wait_until_ready
from sandbox_images.shell.processes import ProcessFamily
from sandbox_images.shell.workspace import FileError, Workspace
from sandbox_images.tool_host.toolset import ToolsetError

_RESULT_DESCRIPTOR = 3
_MAX_OUTPUT_BYTES = 4 << 20
"""Most that a submission may say, in bytes."""
_CPU_SECONDS = 5
"""CPU time that a submission has for one answer, in seconds, unless a test gives it more."""
_WAITING = 4
"""Times as many seconds may go by meanwhile: on a machine that is busy, slow is not wrong."""
_POLL = 0.005

_EVALUATE = f"""
import contextlib, json, os, sys
with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
    score.write("1000")

def answer():  # in a function: a submission can import what is global here
    request = json.loads(sys.stdin.buffer.read())
    sys.dont_write_bytecode = True
    folder = os.getcwd()
    sys.path.insert(0, folder)
    names = {{"__name__": "examined", **request["inputs"]}}
    try:
        code = compile(request["code"], "<examined>", "exec")
        if request["guard"]:
            guard = {{"__name__": "guard"}}
            exec(compile(request["guard"], "<guard>", "exec"), guard)
            guard["admit"](request["of"], request["without"], folder, {_RESULT_DESCRIPTOR})
        exec(code, names)
        return json.dumps({{"value": names.get("result")}})
    except BaseException as error:
        classes = [kind.__name__ for kind in type(error).__mro__]
        return json.dumps({{"raised": classes, "message": str(error)[:500]}})

unsaid = memoryview(answer().encode())
while unsaid:
    unsaid = unsaid[os.write({_RESULT_DESCRIPTOR}, unsaid):]
os._exit(0)
"""


class SubmissionFailed(AssertionError):
    """The submission did not do what a test asked of it."""


@dataclass(frozen=True)
class Completed:
    """The result of a command."""

    status: int
    """Its exit code, 128 + the signal's number if it was killed."""
    stdout: str
    """What it printed to stdout."""


class Subject:
    """Given to every hidden test.

    Args:
        workspace: As the policy left it.
        family: The session's processes.
        environment: That of the commands to run.
        output: The policy's last words.
        expected: What the task's generator says is right; None where there is none.
        deadline: When grading must have ended, by `time.monotonic`.
    """

    def __init__(
        self,
        workspace: Workspace,
        family: ProcessFamily,
        environment: Mapping[str, str],
        output: str | None,
        expected: Any,
        deadline: float,
    ) -> None:
        self.asked = False
        """Whether anything was looked at that the submission has had a part in."""
        self._output = output or ""
        self.expected = expected
        self._workspace = workspace
        self._family = family
        self._environment = environment
        self._deadline = deadline

    @property
    def output(self) -> str:
        """The policy's last words."""
        self.asked = True
        return self._output

    def read(self, path: str) -> str:
        """The text of a file in the workspace.

        Raises:
            SubmissionFailed: There is no such text.
        """
        self.asked = True
        try:
            return self._workspace.read_text(path)
        except FileError as error:
            raise SubmissionFailed(str(error)) from error

    def write(self, path: str, content: str) -> None:
        """Puts a file into the workspace for the submission to work on.

        Raises:
            SubmissionFailed: The submission has left something there that keeps it from being written.
        """
        self.asked = True
        try:
            self._workspace.write_bytes(path, content.encode())
        except FileError as error:
            raise SubmissionFailed(str(error)) from error

    def files(self) -> list[str]:
        """Paths of all regular files in the workspace.

        Raises:
            SubmissionFailed: There are more than can be looked at in time.
        """
        self.asked = True
        found: list[str] = []
        for entry in self._workspace.entries():
            if time.monotonic() > self._deadline:
                raise SubmissionFailed("there are too many files")
            if entry.kind == "file":
                found.append(entry.path)
        return found

    def call(self, function: str, *arguments: Any) -> Any:
        """What a function of the submission returns, as JSON has it: tuples are lists.

        Args:
            function: `module.function`.
            *arguments: Its arguments, as JSON has them.

        Raises:
            SubmissionFailed: It raised, took too long, or returned what is no JSON.
        """
        module, _, name = function.rpartition(".")
        return self.evaluate(
            f"from {module} import {name} as function\nresult = function(*arguments)", arguments=arguments
        )

    def evaluate(
        self,
        code: str,
        cpu_seconds: int = _CPU_SECONDS,
        *,
        of: str | None = None,
        without: Sequence[str] = (),
        **inputs: Any,
    ) -> Any:
        """Runs code that uses the submission, in a process of its own, and gives what it calls `result`.

        Args:
            code: Python source; it must not say what is expected, for the submission can read it.
            cpu_seconds: CPU time it may take, in seconds.
            of: The submission's module, where anything is banned: it is imported before the code runs.
            without: Modules that the submission must not use, and `eval`, `exec` or `compile`; with any of
                them, other processes and modules that are loaded by name. See `bans.py`.
            **inputs: Names it is given, as JSON has them.

        Raises:
            SubmissionFailed: See `call`; or it uses what is banned.
        """
        answer = self._run_for_answer(code, cpu_seconds, inputs, of, without)
        if "raised" in answer:
            raise SubmissionFailed(f"raised {answer['raised'][0]}: {answer['message']}")
        return answer["value"]

    def raised(
        self,
        code: str,
        cpu_seconds: int = _CPU_SECONDS,
        *,
        of: str | None = None,
        without: Sequence[str] = (),
        **inputs: Any,
    ) -> list[str]:
        """Names of the class, and its bases, of what such code raises; empty when it does not raise.

        Raises:
            SubmissionFailed: It took too long or ended without an answer, or uses what is banned.
        """
        return self._run_for_answer(code, cpu_seconds, inputs, of, without).get("raised", [])

    def run(self, *command: str, stdin: str = "", cpu_seconds: int = _CPU_SECONDS) -> Completed:
        """Runs a command in the workspace.

        Raises:
            SubmissionFailed: It took too long or printed too much.
        """
        status, stdout = self._run_watched(list(command), stdin.encode(), 1, cpu_seconds)
        return Completed(status, stdout.decode("utf-8", "replace"))

    def _run_for_answer(
        self, code: str, cpu_seconds: int, inputs: dict[str, Any], of: str | None, without: Sequence[str]
    ) -> dict[str, Any]:
        if without and of is None:
            raise ToolsetError(f"the hidden tests ban {', '.join(without)} but do not say of which module")
        asked = {"code": code, "inputs": inputs, "of": of, "without": list(without)}
        try:
            request = json.dumps({**asked, "guard": GUARD if without else ""}).encode()
        except TypeError as error:
            raise ToolsetError(f"the hidden tests give a submission what is no JSON: {error}") from error
        _, said = self._run_watched(
            [sys.executable, "-I", "-S", "-c", _EVALUATE], request, _RESULT_DESCRIPTOR, cpu_seconds
        )
        try:
            read: Any = json.loads(said)
        except (ValueError, RecursionError):
            raise SubmissionFailed("ended without an answer") from None
        answer = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
        if isinstance(answer.get("refused"), str):
            raise SubmissionFailed(f"does not do the work itself: {answer['refused']:.200}")
        if not ("value" in answer or _is_raised_answer(answer)):
            raise SubmissionFailed("ended without an answer")
        return answer

    def _run_watched(
        self, command: list[str], stdin: bytes, watched: int, cpu_seconds: int
    ) -> tuple[int, bytes]:
        """Runs a process to its end, and gives its exit code and what it wrote to one descriptor."""
        self.asked = True
        deadline = min(time.monotonic() + _WAITING * cpu_seconds, self._deadline)
        with ExitStack() as ends:
            pid, writer, reader = self._spawn_watched(command, watched, cpu_seconds, ends)
            try:
                return self._exchange_data(pid, writer, reader, stdin, deadline)
            finally:
                self._family.kill()

    def _spawn_watched(
        self, command: list[str], watched: int, cpu_seconds: int, ends: ExitStack
    ) -> tuple[int, BinaryIO, int]:
        with ExitStack() as theirs:
            reading, writing_end = os.pipe()
            theirs.callback(os.close, reading)
            writer = ends.enter_context(open(writing_end, "wb", buffering=0))
            reader, writing = os.pipe()
            ends.callback(os.close, reader)
            theirs.callback(os.close, writing)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            for descriptor in (writing_end, reader):
                os.set_blocking(descriptor, False)
            descriptors = {0: reading, 1: null, 2: null, watched: writing}
            pid = self._family.spawn(
                command, self._environment, self._workspace.descriptor, descriptors, cpu_seconds
            )
        return pid, writer, reader

    def _exchange_data(
        self, pid: int, writer: BinaryIO, reader: int, stdin: bytes, deadline: float
    ) -> tuple[int, bytes]:
        unsent = memoryview(stdin)
        said = bytearray()
        readers = [reader]
        while time.monotonic() < deadline:
            if not unsent and not writer.closed:
                writer.close()
            status = self._family.status(pid)  # before the look at the pipe: what it said is there by then
            readable, writable = wait_until_ready(readers, [writer.fileno()] if unsent else [], _POLL)
            if writable:
                unsent = unsent[_write_available(writer, unsent) :]
            if readable:
                data = read_available(reader)
                said += data or b""
                if data is None:
                    readers = []
            if len(said) > _MAX_OUTPUT_BYTES:
                raise SubmissionFailed(f"said more than {_MAX_OUTPUT_BYTES:,} bytes")
            if status is not None and not readable:
                return status, bytes(said)
        raise SubmissionFailed("took too long")


def _is_raised_answer(answer: dict[str, Any]) -> bool:
    raised = answer.get("raised")
    return isinstance(raised, list) and raised != [] and isinstance(answer.get("message"), str)


def _write_available(pipe: BinaryIO, data: memoryview) -> int:
    try:
        return pipe.write(data) or 0
    except BrokenPipeError:
        return len(data)
