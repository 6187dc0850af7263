"""Drivers as forks of one process that has imported what they do, which takes each three seconds otherwise.

They are sessions of their own, with the variables, the folder and the output of a process that was started.
For tests that are not about how a driver starts.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[2]
KUMITE = "cluster.cli.main:main"
"""What a process of the command `kumite` runs."""
IMPORTED = "tests.helpers.driver_imports"
_READ_ON_IMPORT = ("RAY_", "PYTHON", "HF_HUB_")
"""Beginnings of names of variables that packages read when they are imported."""
_OWN = {"PYTHONPATH", "HF_HUB_OFFLINE"}
"""Those of them that a fork may have otherwise: it has an import path, and all of them are offline."""


def own_variables() -> dict[str, str]:
    """This process's variables, without those that a session of Ray has left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def start_driver(
    main: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    folder: Path,
    output: Path,
    errors: Path | None = None,
    *,
    forked: bool = True,
) -> "ForkedDriver | subprocess.Popen[bytes]":
    """A driver that is the leader of a session of its own.

    Args:
        main: The function that the process runs: `module:name`.
        arguments: Its command-line arguments.
        variables: Its environment variables.
        folder: Where it runs.
        output: The file that it appends its output to.
        errors: The file for what it says on standard error. None: the same.
        forked: Whether it may be a fork. It is started where variables say what is read on import.
    """
    if forked and _can_fork(variables):
        return ForkedDriver(main, arguments, variables, folder, output, errors or output)
    module, _, name = main.partition(":")
    with output.open("ab") as stdout, (errors or output).open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-c", f"from {module} import {name}; {name}()", *arguments],
            cwd=folder,
            env={**variables, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )


class ForkedDriver:
    """As much of `subprocess.Popen` as tests use of it. The arguments are those of `start_driver`."""

    def __init__(
        self,
        main: str,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        folder: Path,
        output: Path,
        errors: Path,
    ) -> None:
        given = (main, list(arguments), dict(variables), folder, output, errors)
        self._process: ForkServerProcess = _forks().Process(target=_become, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        ended = self.poll()
        if ended is None:
            raise subprocess.TimeoutExpired(f"driver {self.pid}", timeout or 0.0)
        return ended

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _can_fork(variables: Mapping[str, str]) -> bool:
    """Whether a fork with these variables is as a process that was started with them."""
    return _read_on_import(variables) == _read_on_import(own_variables())


def _read_on_import(variables: Mapping[str, str]) -> dict[str, str]:
    return {n: v for n, v in variables.items() if n.startswith(_READ_ON_IMPORT) and n not in _OWN}


@cache
def _forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([IMPORTED])
    with contextlib.chdir(ROOT):  # where it looks for what it imports
        forkserver.ensure_running()
    return context


def _become(main: str, arguments: list[str], variables: dict[str, str], folder: Path, *files: Path) -> None:
    """Makes this fork a driver."""
    from workers.lanes.generators import reseed_generators

    assert IMPORTED in sys.modules, f"{IMPORTED} could not be imported"
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files, 1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    module, _, name = main.partition(":")
    sys.argv = [module, *arguments]
    reseed_generators()
    try:
        getattr(importlib.import_module(module), name)()
    finally:
        atexit._run_exitfuncs()
