"""One bash for a whole session: it keeps its working directory, variables and functions between calls."""

import os
import re
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from sandbox_images.shell.output import CappedOutput, read_available, wait_until_ready
from sandbox_images.shell.processes import ProcessFamily, UnkillableProcesses

HIGHEST_FD = 63
_COMMANDS, _OUTPUT, _REPORTS = 61, 62, HIGHEST_FD
"""Descriptors that bash talks to us over: no script is likely to use them."""
_ENDED_MEANWHILE = b"[the shell has ended since the last command; this is a fresh one]\n"
_POLL = 0.02
"""Seconds between two looks at whether bash itself has ended, of which no descriptor tells: background
processes may hold copies of all of its own."""
_PIPE_BYTES = 1 << 16
_CLEANING_UP = 8.0
"""Seconds after a command's limit to kill what it started and have another shell take over, all in all: the
worker waits longer, and takes a session that does not answer by then for one that its policy has ended."""
_KILLING = 4.0
"""Of these, to kill. What is still there afterwards is killed before the next command, or before grading."""
_MAX_STATE_BYTES = 4 << 20
_END = 128
"""More bytes than the end of a report has."""
_OURS = re.compile(rb"^declare \S+ _kumite_[^\n]*\n", re.MULTILINE)

# Commands come as two strings that end in NUL: a token and the text. A report goes back over a descriptor
# that the command does not have: bash's state, then the token and the exit code. All in one line, so that
# bash counts a command's lines from 1.
_LOOP = " ".join(
    f"""
    builtin echo 1000 2>/dev/null >/proc/self/oom_score_adj;
    while IFS= builtin read -r -d '' -u {_COMMANDS} _kumite_token &&
        IFS= builtin read -r -d '' -u {_COMMANDS} _kumite_command;
    do
        builtin eval "$_kumite_command"
            </dev/null >&{_OUTPUT} 2>&1 {_COMMANDS}<&- {_OUTPUT}>&- {_REPORTS}>&-;
        _kumite_status=$?;
        builtin unset _kumite_command;
        {{
            builtin declare -p;
            builtin declare -fp;
            builtin alias -p;
            builtin shopt -p;
            builtin trap -p;
            builtin set +o;
            builtin printf '\\0%s %s\\0' "$_kumite_token" "$_kumite_status";
        }} >&{_REPORTS};
    done
    """.split()
)


@dataclass(frozen=True)
class CommandResult:
    """The result of a command."""

    output: str
    """What it printed, stdout and stderr in order."""
    status: int | None
    """Its exit code; None when it was killed at its time limit."""
    shell_ended: bool = False
    """Whether it ended the shell itself, or was killed together with a shell that could not be restored."""


class Shell:
    """A bash process, started when it is first needed and again when it has ended.

    Args:
        folder: Where it starts.
        environment: All of its environment.
        family: The session's processes.
        output_cap: Most bytes of a command's output to keep.
    """

    def __init__(
        self, folder: str, environment: Mapping[str, str], family: ProcessFamily, output_cap: int
    ) -> None:
        self._home = folder
        self._environment = environment
        self._family = family
        self._output_cap = output_cap
        self._pid: int | None = None
        self._state = b""
        self._commands = self._output = self._reports = -1
        self._condemned: set[int] | None = None
        """Those to be spared of a kill that was not finished in time."""

    def run(self, command: str, timeout: float) -> CommandResult:
        """Runs a command in the shell.

        What background processes have printed since the last command comes first, as in a terminal. A
        command that outlives its limit is killed with all that it started, the shell included; another
        shell takes over, in the same folder and with the state that the last command had left.

        Args:
            command: Any text without NUL characters.
            timeout: Seconds it may take.

        Raises:
            OSError: The shell can't be started.
            UnkillableProcesses: What a command before it started can't be killed.
        """
        output = CappedOutput(self._output_cap)
        if self._condemned is not None:
            self._family.kill(self._condemned, _KILLING)
            self._condemned = None
        if self._pid is not None and self._family.status(self._pid) is not None:
            output.feed(_ENDED_MEANWHILE)
            self._hang_up()
        if self._pid is None:
            self._state = b""
            self._start()
        assert self._pid is not None
        pid, older = self._pid, self._family.alive() - {self._pid}
        status = self._run_until_report(command.encode(), timeout, output)
        if status is not None:
            return CommandResult(output.text(), status)
        folder, status = self.folder, self._family.status(pid)
        deadline = time.monotonic() + _CLEANING_UP
        is_clean = status is not None or self._kill_started(older, _KILLING)
        self._read_output(output)
        self._hang_up()
        restored = status is None and is_clean and self._restore(folder, older, deadline)
        return CommandResult(output.text(), status, shell_ended=not restored)

    @property
    def folder(self) -> str:
        """Its working directory."""
        if self._pid is not None:
            with suppress(OSError):
                folder = os.readlink(f"/proc/{self._pid}/cwd")
                return folder if os.path.isdir(folder) else self._home
        return self._home

    def _kill_started(self, older: set[int], seconds: float) -> bool:
        """Kills what a command started, or notes that it is still to be done."""
        try:
            self._family.kill(older, seconds)
        except UnkillableProcesses:
            self._condemned = older
            return False
        return True

    def _restore(self, folder: str, older: set[int], deadline: float) -> bool:
        """Starts a shell in the folder and state of the one before it, if that can be done in time."""
        go = f"\nbuiltin cd -- {shlex.quote(folder)} || builtin true"
        try:
            self._start()
            left = deadline - time.monotonic()
            if self._run_until_report(self._state + os.fsencode(go), left, CappedOutput(2)) is not None:
                return True
        except OSError:  # there is no room for another one now
            pass
        self._kill_started(older, 0.1)
        self._hang_up()
        return False

    def _start(self) -> None:
        self._hang_up()
        with ExitStack() as theirs, ExitStack() as undo:
            undo.callback(self._hang_up)
            commands, self._commands = os.pipe()
            theirs.callback(os.close, commands)
            self._output, output = os.pipe()
            theirs.callback(os.close, output)
            self._reports, reports = os.pipe()
            theirs.callback(os.close, reports)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            self._pid = self._family.spawn(
                ["bash", "--noprofile", "--norc", "-c", _LOOP],
                self._environment,
                self._home,
                {0: null, 1: null, 2: null, _COMMANDS: commands, _OUTPUT: output, _REPORTS: reports},
            )
            undo.pop_all()
        for descriptor in (self._commands, self._output, self._reports):
            os.set_blocking(descriptor, False)

    def _hang_up(self) -> None:
        for descriptor in (self._commands, self._output, self._reports):
            if descriptor >= 0:
                os.close(descriptor)
        self._commands = self._output = self._reports = -1
        self._pid = None

    def _run_until_report(self, command: bytes, timeout: float, output: CappedOutput) -> int | None:
        """Sends a command and collects its output until its report comes.

        Returns:
            The exit code; None when the shell has ended or the time is over.
        """
        assert self._pid is not None
        token = os.urandom(16).hex()
        report = _Report(token)
        unsent = memoryview(token.encode() + b"\0" + command + b"\0")
        open_ends = {self._output, self._reports}
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            readable, writable = wait_until_ready(
                open_ends, [self._commands] if unsent else [], min(left, _POLL)
            )
            if writable:
                unsent = unsent[self._send(unsent[:_PIPE_BYTES]) :]
            for descriptor in readable:
                data = read_available(descriptor)
                if data is None:
                    open_ends.discard(descriptor)
                elif descriptor == self._output:
                    output.feed(data)
                elif report.feed(data):
                    self._read_output(output)
                    self._state = report.state or self._state
                    return report.status
            if self._family.status(self._pid) is not None:
                return None
        return None

    def _send(self, data: memoryview) -> int:
        try:
            return os.write(self._commands, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # the shell has ended, which is noticed elsewhere

    def _read_output(self, output: CappedOutput) -> None:
        """Takes what is in the pipe, which holds all that was printed before; no more, if it never ends."""
        left = _PIPE_BYTES
        while left > 0 and (data := read_available(self._output, left)):
            output.feed(data)
            left -= len(data)


class _Report:
    """Looks for the report on one command among what comes over the reports' descriptor."""

    def __init__(self, token: str) -> None:
        self._end = re.compile(rb"\x00%s (\d+)\x00\Z" % token.encode())
        self._seen = bytearray()
        self._overflowed = False
        self.state: bytes | None = None
        """What the shell says of its variables, functions and options, to be run by another one."""
        self.status: int | None = None

    def feed(self, data: bytes) -> bool:
        """Takes what was read; says whether the report is complete."""
        self._seen += data
        if len(self._seen) > _MAX_STATE_BYTES:
            self._overflowed = True
            del self._seen[:-_END]
        end = self._end.search(self._seen, max(0, len(self._seen) - _END))
        if end is None:
            return False
        self.status = int(end[1])
        if not self._overflowed:
            self.state = _OURS.sub(b"", self._seen[: end.start()])
        return True
