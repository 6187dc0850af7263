"""Starts processes of `workers` as forks of one that has imported what they do, which takes seconds.

It is for tests of many workers that are not about how a process starts. Run as a program, this is the process
that is forked, on a Python with packages of its own, where the product starts each anew.
"""

import importlib
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # the process that is forked finds `workers` later
    from workers.lanes.forked_process import ForkedProcess
    from workers.lanes.interpreter import OwnPython

_PRELOADED = (
    "workers.lanes.process",
    "workers.environments.planner",
    "workers.environments.v1.environment",
    "verifiers.v1.tasksets",
)


class ForkServer:
    """The process that forks, of one Python.

    Args:
        python: Which one.
        modules: What it imports.
    """

    def __init__(self, python: "OwnPython", modules: Sequence[str] = _PRELOADED) -> None:
        from workers.lanes.fork_server import listen_for_forks

        self._python = python
        self.address = f"kumite-test-forks-{secrets.token_hex(16)}"
        with listen_for_forks(self.address) as listener:
            self._process = subprocess.Popen(
                [python.executable, __file__, python.code, str(listener.fileno()), *modules],
                pass_fds=(listener.fileno(),),
                stdin=subprocess.DEVNULL,
            )

    def start(self, module: str, variables: Mapping[str, str], passed: Sequence[int]) -> "ForkedProcess":
        """A process like one of `workers.lanes.interpreter.start_process`."""
        from workers.lanes.forked_process import fork_process

        forked = fork_process(self.address, module, variables, passed, self._python, patience=300.0)
        assert forked is not None
        return forked

    def close(self) -> None:
        """Ends it, and what it has forked."""
        self._process.kill()
        self._process.wait(30)


_servers: "dict[OwnPython, ForkServer]" = {}


def start_forked(
    module: str, python: "OwnPython", variables: Mapping[str, str], passed: Sequence[int]
) -> "ForkedProcess":
    """What stands in for `start_process`. The module may be one of `tests`."""
    if python not in _servers:
        _servers[python] = ForkServer(python)
    return _servers[python].start(module, variables, passed)


def end_forks() -> None:
    """Ends all that was forked."""
    while _servers:
        _servers.popitem()[1].close()


def main() -> NoReturn:
    """Imports what the processes do, and forks them until it is killed."""
    listener = socket.socket(fileno=int(sys.argv[2]))
    sys.path[:] = [sys.argv[1], *sys.path[1:], str(Path(__file__).parents[2])]
    for name in sys.argv[3:]:
        importlib.import_module(name)
    from workers.lanes.board import die_with_parent
    from workers.lanes.fork_server import answer_requests

    die_with_parent()
    answer_requests(listener, None)


if __name__ == "__main__":
    main()
