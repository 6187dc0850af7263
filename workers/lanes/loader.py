"""The process that has loaded a worker's environment and forks its lanes, as the worker sees it."""

import logging
import os
import socket
import subprocess

from workers.handed_on import process_environment
from workers.lanes.errors import EnvironmentLoadError
from workers.lanes.forked_process import ForkedProcess, fork_process
from workers.lanes.interpreter import OwnPython, start_process
from workers.lanes.lane import read_resident_mb
from workers.lanes.signals import PID
from workers.lanes.wire import read_message_now, send_message_now
from workers.sandbox.toolset_spec import ToolsetSpec
from workers.settings import WorkerSettings

_log = logging.getLogger(__name__)
_MODULE = "workers.lanes.process"
_FORK_TIMEOUT = 60.0
"""Seconds that a fork may take."""


class Loader:
    """That process, from its start on. It runs `workers.lanes.process`.

    Args:
        settings: The worker's.
        worker_id: For the records and the sandboxes' labels.
        node_id: For the records.
        board: Descriptor of the board.
        stacks: Descriptor of the file for stacks.
        python: What runs the environment's code. None: this process's Python.

    Raises:
        EnvironmentLoadError: The environment does not load.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        worker_id: str,
        node_id: str,
        board: int,
        stacks: int,
        python: OwnPython | None,
    ) -> None:
        self._control, theirs = socket.socketpair()
        self._process = _start_or_fork(settings, python, (theirs.fileno(), board, stacks))
        theirs.close()
        try:
            send_message_now(self._control, (settings, worker_id, node_id))
            what, said = read_message_now(self._control)
        except (EOFError, OSError) as error:
            raise EnvironmentLoadError(
                f"environment.id: the process that loads {settings.environment.id} ended by itself, with "
                f"status {self._process.wait()}; its last words are in the worker's log"
            ) from error
        if what == "failed":
            self._process.wait()
            raise EnvironmentLoadError(said)
        self.toolset: ToolsetSpec | None = said[0]
        self.loads_anew: bool = said[1]
        """Whether each lane loads the environment by itself, since a fork would miss its threads."""
        self._check_memory(settings)

    def fork_lane(self, slot: int) -> tuple[int, socket.socket]:
        """A lane's process id, and the connection to it. Where this process is gone, the worker ends.

        Args:
            slot: The lane's place on the board.
        """
        send_message_now(self._control, slot)
        self._control.settimeout(_FORK_TIMEOUT)
        message, descriptors, _, _ = socket.recv_fds(self._control, PID.size, 1)
        self._control.settimeout(None)
        if not message:
            _log.error("the process that forks lanes is gone, and this worker with it")
            os._exit(1)
        [pid] = PID.unpack(message)
        return pid, socket.socket(fileno=descriptors[0])

    def end(self) -> None:
        """Kills it, and returns when it is gone."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    def _check_memory(self, settings: WorkerSettings) -> None:
        most, used = settings.memory_mb, read_resident_mb(self._process.pid)
        if most is not None and used >= most:
            self.end()
            raise EnvironmentLoadError(
                f"workers.memory_mb: got {most}, and {settings.environment.id} takes {used} MiB before its "
                "first episode; give more, or leave it out"
            )


def _start_or_fork(
    settings: WorkerSettings, python: OwnPython | None, passed: tuple[int, ...]
) -> "subprocess.Popen[bytes] | ForkedProcess":
    """The process: a fork of one that has its packages, if there is one on this machine."""
    variables = process_environment(settings.env, instead=settings.whole_env)
    if settings.fork_server is not None:
        forked = fork_process(settings.fork_server, _MODULE, variables, passed, python)
        if forked is not None:
            return forked
    return start_process(_MODULE, python, variables, passed)
