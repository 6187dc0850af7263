"""A program of the machine's: its pipes, what it has printed, and its end."""

import base64
import os
import pwd
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sandbox_images.shell.processes import ProcessFamily

_AT_ONCE = 1024 * 1024
"""Most bytes of a stream that are told of at once; the rest waits in the pipe, and the program with it."""


class Program:
    """A running program.

    Args:
        family: Starts it, and reaps it.
        argv: The program and its arguments.
        environment: All of its variables.
        folder: Where it starts.
        stdin: Whether it is to be written to; else it reads an end of file.
        log: A file that takes its output. None: it is told of.
        user: Makes the process another user's.
    """

    def __init__(
        self,
        family: ProcessFamily,
        argv: list[str],
        environment: Mapping[str, str],
        folder: str,
        *,
        stdin: bool,
        log: str | None,
        user: Callable[[], None] | None,
    ) -> None:
        self._family = family
        self._unwritten = bytearray()
        self._input_ends = False
        self._to_close: list[int] = []
        try:
            reader, self._stdin = self._pipe() if stdin else (self._open(os.devnull, os.O_RDONLY), None)
            if log is None:
                self._stdout, output = self._pipe()
                self._stderr, errors = self._pipe()
            else:
                os.makedirs(os.path.dirname(log), exist_ok=True)
                output = errors = self._open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                self._stdout = self._stderr = None
            self.pid = family.spawn(
                argv, environment, folder, {0: reader, 1: output, 2: errors}, become_user=user
            )
        except BaseException:
            for descriptor in self._to_close:
                os.close(descriptor)
            raise
        for descriptor in {reader, output, errors}:
            os.close(descriptor)
        for descriptor in (self._stdin, self._stdout, self._stderr):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
        self._end: int | None = None
        with suppress(OSError):  # a kernel may not have it; its end is then looked for from time to time
            self._end = os.pidfd_open(self.pid)

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._to_close += ends
        return ends

    def _open(self, path: str, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self._to_close.append(descriptor)
        return descriptor

    @property
    def readers(self) -> list[int]:
        """Descriptors that its output comes by, and one that tells of its end."""
        return [each for each in (self._stdout, self._stderr, self._end) if each is not None]

    @property
    def writers(self) -> list[int]:
        """The descriptor that it is written to by, where something is to be written."""
        return [self._stdin] if self._stdin is not None and self._unwritten else []

    def write(self, data: bytes) -> None:
        """Writes to it; nothing: its input ends. What it does not read yet is kept."""
        if self._stdin is None or self._input_ends:
            raise ValueError("this program's input is closed")
        self._unwritten += data
        self._input_ends = not data
        self._flush()

    def take(self) -> dict[str, Any] | None:
        """What is new of it: output, and the exit code when there is no more. None: nothing is."""
        self._flush()
        said, errors = self._read("_stdout"), self._read("_stderr")
        status = self._family.status(self.pid)
        if status is not None:
            said, errors = said + self._read("_stdout"), errors + self._read("_stderr")
            if len(said) >= _AT_ONCE or len(errors) >= _AT_ONCE:
                status = None  # there may be more, and its end is told of last
            else:
                self._close()
        if not said and not errors and status is None:
            return None
        return {"out": _encoded(said), "err": _encoded(errors), "status": status}

    def _read(self, name: str) -> bytes:
        descriptor: int | None = getattr(self, name)
        data = bytearray()
        while descriptor is not None and len(data) < _AT_ONCE:
            try:
                piece = os.read(descriptor, _AT_ONCE - len(data))
            except BlockingIOError:
                break
            if not piece:
                os.close(descriptor)
                setattr(self, name, None)
                break
            data += piece
        return bytes(data)

    def _flush(self) -> None:
        while self._stdin is not None and self._unwritten:
            try:
                size = os.write(self._stdin, self._unwritten)
            except BlockingIOError:
                return
            except OSError:  # it does not read any more
                self._close_stdin()
                return
            del self._unwritten[:size]
        if self._input_ends:
            self._close_stdin()

    def _close_stdin(self) -> None:
        self._unwritten.clear()
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def _close(self) -> None:
        self._close_stdin()
        for descriptor in self.readers:
            with suppress(OSError):
                os.close(descriptor)
        self._stdout = self._stderr = self._end = None


def find_user(name: str) -> Callable[[], None]:
    """What makes a process a user's of the image's.

    Raises:
        LookupError: There is no such user.
    """
    found = pwd.getpwnam(name)
    groups = os.getgrouplist(name, found.pw_gid)

    def become() -> None:
        os.setgroups(groups)
        os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
        os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)

    return become


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
