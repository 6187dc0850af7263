"""An environment with packages of its own, as what plans a run sees it: through a process of its Python."""

import os
import socket
import subprocess
import threading
import weakref
from typing import Any, Literal, Self

from workers.environments.base import Rows
from workers.errors import EnvironmentLoadError
from workers.lanes.interpreter import OwnPython, start_process
from workers.lanes.wire import read_message_now, send_message_now
from workers.sandbox.base import ToolsetSpec
from workers.settings import EnvironmentSettings, SandboxSettings, Split

_END_TIMEOUT = 5.0
"""Seconds that the process gets to end once nobody asks any more."""


class EnvironmentApart:
    """The tasks and the traits of an environment; it is played by workers only.

    Args:
        settings: Which environment, with which arguments.
        python: The Python with its packages.
        policy: Name of the model that plays.
        episode_timeout: Seconds that an episode may take; None where there is no limit.
        forks: Whether workers of this machine may have their processes forked from that of this environment.

    Raises:
        EnvironmentLoadError: There is no such environment, or it does not load with these arguments.
    """

    def __init__(
        self,
        settings: EnvironmentSettings,
        python: OwnPython,
        policy: str | None = None,
        episode_timeout: float | None = None,
        forks: bool = False,
    ) -> None:
        self._settings = settings
        self._planner = _Planner(python)
        traits = self._planner.ask((settings, policy, episode_timeout, forks), settings.id)
        self.api: Literal["classic", "v1"] = traits[0]
        self.toolset: ToolsetSpec | None = traits[1]
        self.needs_groups: bool = traits[2]
        self.has_tools: bool = traits[3]
        self._sampling_args: dict[str, Any] = traits[4]
        self.seat_policies: dict[str, str] = traits[5]
        self.fork_server: str | None = traits[6]
        """See `workers.lanes.fork_server.serve_forks`."""

    @property
    def sampling_args(self) -> dict[str, Any]:
        """See `TaskEnvironment.sampling_args`."""
        return dict(self._sampling_args)

    def rows(self) -> Rows:
        """See `TaskEnvironment.rows`. They stay where they are, and are read one at a time.

        Raises:
            EnvironmentLoadError: It has no such tasks, or they cannot be read.
        """
        return _RowsApart(self._planner, self._settings)

    def of_split(self, split: Split) -> Self:
        """See `TaskEnvironment.of_split`."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._settings = self._settings.model_copy(update={"split": split})
        return other

    def validate_task(
        self, row: dict[str, Any], sandbox: SandboxSettings | None = None
    ) -> tuple[float | None, str | None]:
        """What a v1 environment's own check finds in a task; see `V1Environment.validate_task`.

        Raises:
            EnvironmentLoadError: The task cannot be checked.
        """
        return self._planner.ask(("validate", (row, sandbox)), self._settings.id)

    async def tear_down(self) -> None:
        """Ends the process that is asked for tasks."""
        self._planner.close()


class _Planner:
    """The process, which ends when nobody holds this any more."""

    def __init__(self, python: OwnPython) -> None:
        self._connection, theirs = socket.socketpair()
        self._lock = threading.Lock()
        process = start_process("workers.environments.planner", python, os.environ, [theirs.fileno()])
        theirs.close()
        self.close = weakref.finalize(self, _end_process, self._connection, process)

    def ask(self, question: Any, name: str) -> Any:
        """Its answer.

        Raises:
            EnvironmentLoadError: It has none, and says why, or it has ended.
        """
        try:
            with self._lock:
                send_message_now(self._connection, question)
                what, said = read_message_now(self._connection)
        except (EOFError, OSError) as error:
            raise EnvironmentLoadError(
                f"environment.id: the process that loads {name} with its own packages ended by itself; its "
                "last words are above"
            ) from error
        except ModuleNotFoundError as error:
            raise EnvironmentLoadError(
                f"environment.id: a task of {name} holds an object of the package {error.name}, which only "
                "its own Python has; make its tasks of text, numbers, lists and dictionaries"
            ) from error
        if what == "failed":
            raise EnvironmentLoadError(said)
        return said


class _RowsApart:
    """Tasks that another process has."""

    def __init__(self, planner: _Planner, settings: EnvironmentSettings) -> None:
        self._planner = planner
        self._settings = settings
        self._length: int = planner.ask((settings.split, None), settings.id)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        return self._planner.ask((self._settings.split, index), self._settings.id)


def _end_process(connection: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    connection.close()
    try:
        process.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
