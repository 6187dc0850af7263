"""A process that has imported what lanes need, and forks those that the workers of its machine ask for.

The imports of an environment take seconds and some 260 MB, in each worker anew. A driver has made them itself
when it has planned a run, so it forks this process off before it loads any code of the environment; a worker
on the same machine is then up seconds earlier, and shares that memory. Workers of other nodes do not find it,
and start processes of their own.

A forked process is as one that was started: it has the variables, the folder, the import path and the
descriptors that were asked for, and no handlers, threads or random numbers of the driver. Where variables
differ from those that the modules were imported with, nothing is forked. It ends with whoever asked for it:
their connection lasts as long as it does. With this process, which ends with the driver, all of them end.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from typing import Any, NoReturn

from workers.collector import collect_as_usual, collect_seldom
from workers.handed_on import same_variables
from workers.lanes.board import die_with_parent
from workers.lanes.forked_process import peer_user
from workers.lanes.generators import reseed_generators

_log = logging.getLogger(__name__)
_LARGEST_REQUEST = 1 << 18
"""Bytes; the kernel passes on no larger ones as it comes, and a process is started then."""
_MAX_DESCRIPTORS = 16
_PATIENCE = 10.0
"""Seconds that whoever has connected gets to say what for."""
_PAUSE = 0.05
"""Seconds after a connection that could not be taken."""


@contextlib.contextmanager
def serve_forks(modules: Iterable[str]) -> Generator[str | None]:
    """Has a fork of this process serve others, for as long as the block lasts.

    Args:
        modules: What the forked processes need; imported here, where it can be and is not there already.

    Yields:
        The server's address. None where this process has started threads, which a fork would miss.
    """
    with collect_seldom():
        for name in modules:
            with contextlib.suppress(ImportError):  # whoever needs it will say so
                importlib.import_module(name)
    if threading.active_count() > 1:
        yield None
        return
    address = f"kumite-forks-{secrets.token_hex(16)}"
    with listen_for_forks(address) as listener:
        driver = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        server = os.fork()
        if server == 0:
            try:
                collect_as_usual()
                _leave_driver(driver, listener.fileno())
                answer_requests(listener, dict(os.environ))
            finally:
                os._exit(1)
    try:
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(server, 0)


def listen_for_forks(address: str) -> socket.socket:
    """A socket that requests come to. Its address is a name that is no file, so that none is left behind."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"\0{address}")
    listener.listen(256)
    return listener


def answer_requests(listener: socket.socket, variables: Mapping[str, str] | None) -> NoReturn:
    """Forks a process for each connection, and ends it with that one; never returns.

    Args:
        listener: Where requests come to.
        variables: Those that what is imported was imported with. None: a process may have any.
    """
    gc.collect()
    gc.freeze()
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    connections: dict[int, tuple[socket.socket, int]] = {}
    processes: dict[int, tuple[int, socket.socket]] = {}
    while True:
        ready = [descriptor for descriptor, _ in waiting.poll()]
        for descriptor in ready:
            if descriptor in connections:  # it says nothing more: it is closed
                waiting.unregister(descriptor)
                _, process = connections.pop(descriptor)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            elif descriptor in processes:
                waiting.unregister(descriptor)
                pid, connection = processes.pop(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                if connections.pop(connection.fileno(), None) is not None:
                    waiting.unregister(connection)
                    with contextlib.suppress(OSError):
                        connection.send(str(status).encode())
                connection.close()
                os.close(descriptor)
        # Last: a new connection may get a number that is among those just looked at.
        if listener.fileno() in ready and (forked := _accept(listener, variables)) is not None:
            connection, pid, process = forked
            connections[connection.fileno()] = (connection, process)
            processes[process] = (pid, connection)
            waiting.register(connection, select.POLLIN)
            waiting.register(process, select.POLLIN)


def _accept(
    listener: socket.socket, variables: Mapping[str, str] | None
) -> tuple[socket.socket, int, int] | None:
    """A connection, the process that was forked for it, and a descriptor of that; None where none was."""
    try:
        connection, _ = listener.accept()
    except OSError:  # whoever asked is gone, or there is no descriptor to be had
        time.sleep(_PAUSE)
        return None
    descriptors: list[int] = []
    try:
        if peer_user(connection) != os.getuid():
            raise PermissionError("another user asks")
        connection.settimeout(_PATIENCE)
        message, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_REQUEST, _MAX_DESCRIPTORS)
        request = json.loads(message)
        if request["command"][0] != sys.executable:
            raise ValueError("it is to run on another Python")
        if variables is not None and not same_variables(request["variables"], variables):
            raise ValueError("it is to have other variables than the modules were imported with")
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            _become(request, descriptors, server)
        process = os.pidfd_open(pid)
        try:
            socket.send_fds(connection, [str(pid).encode()], [process])
            connection.settimeout(None)
        except OSError:  # whoever asked is gone
            signal.pidfd_send_signal(process, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(process)
            raise
    except (OSError, ValueError):
        connection.close()
        return None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return connection, pid, process


def _leave_driver(driver: int, listener: int) -> None:
    """Makes this fork of a driver a process of its own, which ends with it and hears no Ctrl-C."""
    die_with_parent()
    if os.getppid() != driver:
        os._exit(0)
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    sys.excepthook = sys.__excepthook__
    logging.getLogger().handlers.clear()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.closerange(3, listener)
    os.closerange(listener + 1, os.sysconf("SC_OPEN_MAX"))
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("kumite-forks")


def _become(request: dict[str, Any], descriptors: list[int], server: int) -> NoReturn:
    """Makes this fork of the server the process that was asked for."""
    status = 1
    try:
        die_with_parent()
        if os.getppid() != server:
            os._exit(1)
        wanted = [1, 2, *request["passed"]]
        beyond = max(wanted + descriptors) + 1  # from here on none is in the way of another
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, beyond + number)
        os.closerange(3, beyond)
        for number, place in enumerate(wanted):
            os.dup2(beyond + number, place, inheritable=place < 3)
            os.close(beyond + number)
        os.closerange(beyond + len(descriptors), os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(request["variables"])
        os.chdir(request["folder"])
        if request["path"] is not None:
            sys.path[:] = request["path"]
        sys.orig_argv = request["command"]
        sys.argv = ["-c", *request["command"][4:]]
        reseed_generators()
        importlib.import_module(request["module"]).main()
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - it must never unwind into the server's frames
        _log.exception("a forked process ended by an error")
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)
