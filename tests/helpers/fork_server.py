"""Starts processes of `workers` as forks of one that has imported what they do, which takes seconds.

It is for tests of many workers that are not about how a process starts. Run as a program, this is the process
that is forked.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # the process that is forked finds `workers` later
    from workers.lanes.interpreter import OwnPython

_PRELOADED = (
    "workers.lanes.process",
    "workers.environments.planner",
    "workers.environments.v1.environment",
    "verifiers.v1",
)
_LARGEST_REQUEST = 1 << 17


class ForkServer:
    """The process that forks, of one Python."""

    def __init__(self, python: "OwnPython") -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [python.executable, __file__, python.code, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def start(
        self, module: str, python: "OwnPython", variables: Mapping[str, str], passed: Sequence[int]
    ) -> "ForkedProcess":
        """A process like one of `workers.lanes.interpreter.start_process`."""
        from workers.lanes.interpreter import own_environment, start_command

        request = {
            "module": module,
            "command": start_command(module, [str(descriptor) for descriptor in passed], python),
            "variables": own_environment(variables, python),
            "passed": list(passed),
            "folder": os.getcwd(),
        }
        return ForkedProcess(self, self.ask(request, [1, 2, *passed]))

    def ask(self, request: Any, descriptors: Sequence[int] = ()) -> int:
        """A number, which is what a request comes to.

        Raises:
            OSError: The server is gone.
        """
        with self._lock:
            socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
            answer = self._connection.recv(64)
        if not answer:
            raise OSError("the process that forks others is gone")
        return int(answer)

    def close(self) -> None:
        """Ends it, and what it has forked."""
        self._connection.close()
        self._process.kill()
        self._process.wait(30)


class ForkedProcess:
    """As much of `subprocess.Popen` as is used of it."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen.wait`."""
        if self.returncode is None:
            ends = select.poll()  # `select.select` takes no descriptor above 1,023
            ends.register(self._descriptor, select.POLLIN)
            if not ends.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            try:
                self.returncode = self._server.ask({"ended": self.pid})
            except OSError:
                self.returncode = -signal.SIGKILL  # it has ended with the server
            os.close(self._descriptor)
        return self.returncode

    def kill(self) -> None:
        """See `Popen.kill`."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


@contextlib.contextmanager
def forked_starts() -> "Iterator[Callable[..., ForkedProcess]]":
    """What stands in for `start_process` while this lasts."""
    servers: dict[OwnPython, ForkServer] = {}

    def start(
        module: str, python: "OwnPython", variables: Mapping[str, str], passed: Sequence[int]
    ) -> ForkedProcess:
        if python not in servers:
            servers[python] = ForkServer(python)
        return servers[python].start(module, python, variables, passed)

    try:
        yield start
    finally:
        for server in servers.values():
            server.close()


def main() -> NoReturn:
    """Imports what the processes do, and forks them until nobody asks any more."""
    sys.path[0], connection = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_REQUEST, 16)
        if not message:
            os._exit(0)
        request = json.loads(message)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(request, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(answer).encode())


def _become(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Makes this fork the process that was asked for."""
    status = 1
    try:
        wanted = [1, 2, *request["passed"]]
        beyond = max(wanted + descriptors) + 1  # from here on none is in the way of another
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, beyond + number)
        os.closerange(3, beyond)
        for number, place in enumerate(wanted):
            os.dup2(beyond + number, place)
            os.close(beyond + number)
        os.environ.clear()
        os.environ.update(request["variables"])
        os.chdir(request["folder"])
        sys.orig_argv = request["command"]
        sys.argv = ["-c", *request["command"][4:]]
        importlib.import_module(request["module"]).main()
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - a fork must never unwind into the server's frames
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
