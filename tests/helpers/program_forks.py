"""Has programs of Python run as forks of a process that has made their imports, where those are no subject.

A program stands in for `python -m …` or `python file.py` in a command. It has the input, the output, the
arguments, the variables and the folder of the process that was started for it (`program_stand_in`), which
ends as it does, passes SIGTERM on, and ends it when it is killed. It needs nothing but Python, any of those
that tests have, where `workers.lanes.fork_server` forks what can import `workers`.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_LARGEST = 1 << 17
"""Bytes of a request: arguments and variables."""


@contextlib.contextmanager
def fork_programs(python: str, modules: Sequence[str], variables: Mapping[str, str]) -> Iterator[list[str]]:
    """Starts the process that forks.

    Args:
        python: Its interpreter.
        modules: What it imports; those that it does not have are left out.
        variables: Its environment variables, of which programs get their own later.

    Yields:
        What stands for the interpreter at the beginning of a command.
    """
    address = f"kumite-test-programs-{secrets.token_hex(16)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{address}")
        listener.listen(64)
        process = subprocess.Popen(
            [python, __file__, str(listener.fileno()), *modules],
            env=dict(variables),
            pass_fds=(listener.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    try:
        yield [python, "-I", "-S", str(Path(__file__).with_name("program_stand_in.py")), address]
    finally:
        process.kill()
        process.wait(30)


def serve(descriptor: int, modules: Sequence[str]) -> NoReturn:
    """Imports what programs do, and forks one for each connection until it is killed."""
    _die_with_parent()
    listener = socket.socket(fileno=descriptor)
    sys.path.pop(0)  # this file's folder
    gc.disable()
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    assert threading.active_count() == 1, "forks would miss the threads of what was imported"
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    connections: dict[int, tuple[socket.socket, int]] = {}
    """Connection and process of each program, by the descriptor of the connection."""
    programs: dict[int, tuple[int, socket.socket]] = {}
    """Process and connection of each, by the descriptor that stands for the process."""
    while True:
        ready = [number for number, _ in waiting.poll()]
        for number in ready:
            if number in connections:
                connection, pid = connections[number]
                try:
                    told = connection.recv(16)
                except ConnectionError:
                    told = b""
                if not told:  # who has asked for it is gone
                    waiting.unregister(number)
                    del connections[number]
                _signal(pid, int(told or signal.SIGKILL))
            elif number in programs:
                pid, connection = programs.pop(number)
                waiting.unregister(number)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if connections.pop(connection.fileno(), None) is not None:
                    waiting.unregister(connection)
                    with contextlib.suppress(OSError):
                        connection.send(str(status).encode())
                connection.close()
                os.close(number)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            connection.settimeout(10)
            message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST, 3)
            pid = os.fork()
            if pid == 0:
                _become(json.loads(message), descriptors)
            for inherited in descriptors:
                os.close(inherited)
            process = os.pidfd_open(pid)
            connections[connection.fileno()] = (connection, pid)
            programs[process] = (pid, connection)
            waiting.register(connection, select.POLLIN)
            waiting.register(process, select.POLLIN)


def _become(request: dict[str, object], descriptors: list[int]) -> NoReturn:
    """Makes this fork the program that was asked for."""
    status = 1
    try:
        _die_with_parent()
        os.setsid()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        arguments, variables, folder = request["arguments"], request["variables"], request["folder"]
        assert isinstance(arguments, list) and isinstance(variables, dict) and isinstance(folder, str)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
        own = folder if arguments[0] == "-m" else os.path.dirname(arguments[0])
        given = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = dict.fromkeys([own, *given, *sys.path])
        random.seed()
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - it must never unwind into the server's frames
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
        os._exit(status)


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it leads no group yet, or has ended
        os.kill(pid, number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
