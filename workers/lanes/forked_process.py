"""A process that a fork server has forked, as the process sees it that asked for it."""

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence

from workers.lanes.interpreter import OwnPython, own_environment, start_command

_log = logging.getLogger(__name__)
_PATIENCE = 10.0
"""Seconds that the server gets to answer: a fork of a large process takes a tenth of one."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a peer, as `SO_PEERCRED` gives them."""


def fork_process(
    address: str,
    module: str,
    variables: Mapping[str, str],
    passed: Sequence[int],
    python: OwnPython | None = None,
    patience: float = _PATIENCE,
) -> "ForkedProcess | None":
    """Has the server fork a process that runs a module's `main`, as `start_process` would start it.

    Args:
        address: The server's.
        module: One of `workers`.
        variables: Its environment variables.
        passed: Descriptors that it inherits, whose numbers are its command-line arguments.
        python: The Python that is to run it. None: this one, whose import path the process gets.
        patience: Seconds that the server gets to answer.

    Returns:
        The process. None where there is no such server on this machine, or where the process would be another
        than one that is started: the caller starts one.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(patience)
        connection.connect(f"\0{address}")
        if peer_user(connection) != os.getuid():
            raise PermissionError(f"{address} is another user's")
        request = {
            "module": module,
            "command": start_command(module, [str(descriptor) for descriptor in passed], python),
            "variables": own_environment(variables, python),
            "passed": list(passed),
            "folder": os.getcwd(),
            "path": sys.path if python is None else None,
        }
        socket.send_fds(connection, [json.dumps(request).encode()], [1, 2, *passed])
        answer, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        if not answer or not descriptors:
            raise ConnectionError("the server forks none for this request")
        os.set_inheritable(descriptors[0], False)
    except OSError as error:
        _log.info("a process is started, not forked: %s", error)
        connection.close()
        return None
    connection.settimeout(None)
    return ForkedProcess(connection, int(answer), descriptors[0])


class ForkedProcess:
    """As much of `subprocess.Popen` as lanes use of it.

    Args:
        connection: To the server, which ends the process when it is closed.
        pid: The process's.
        descriptor: One that stands for the process, whose number may be another's once it has ended.
    """

    def __init__(self, connection: socket.socket, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection, self._descriptor = connection, descriptor

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen.wait`."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(64)
            except TimeoutError:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None
            except OSError:
                answer = b""
            self.returncode = int(answer or -signal.SIGKILL)  # nothing: it has ended with the server
            self._connection.close()
            os.close(self._descriptor)
        return self.returncode

    def kill(self) -> None:
        """See `Popen.kill`."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


def peer_user(connection: socket.socket) -> int:
    """The user that the process at the other end of a Unix socket belongs to."""
    given = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(given)[1]
