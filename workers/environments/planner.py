"""The process in which an environment with packages of its own is asked for its tasks.

It is started with the descriptor of a socket, loads the environment, and hands out tasks until the other end
is gone. So what plans a run needs none of the environment's packages.
"""

import os
import signal
import socket
import sys
from contextlib import nullcontext
from typing import Any, NoReturn

from workers.environments.base import Rows
from workers.environments.modules import library_modules
from workers.environments.opening import open_environment
from workers.errors import EnvironmentLoadError
from workers.lanes.fork_server import serve_forks
from workers.lanes.wire import read_message_now, send_message_now
from workers.settings import EnvironmentSettings


def main() -> NoReturn:
    """Answers until nobody asks any more."""
    asked = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    settings, policy, episode_timeout, forks = read_message_now(asked)
    modules = ["workers.lanes.process", *library_modules(settings)]
    # Forks are to have what is imported here, and nothing that the environment's code does.
    with serve_forks(modules) if forks else nullcontext() as fork_server:
        status = _answer_questions(asked, settings, policy, episode_timeout, fork_server)
    os._exit(status)  # without the exit handlers of the environment's packages


def _answer_questions(
    asked: socket.socket,
    settings: EnvironmentSettings,
    policy: str | None,
    episode_timeout: float | None,
    fork_server: str | None,
) -> int:
    """Loads the environment, and answers until nobody asks any more; returns the status to exit with."""
    try:
        environment = open_environment(settings, None, policy, episode_timeout)
    except EnvironmentLoadError as error:
        send_message_now(asked, ("failed", str(error)))
        return 1
    traits = (
        environment.api,
        environment.toolset,
        environment.needs_groups,
        environment.has_tools,
        environment.sampling_args,
        environment.seat_policies,
        fork_server,
    )
    send_message_now(asked, ("loaded", traits))
    rows: dict[str, Rows] = {}
    while True:
        try:
            what, given = read_message_now(asked)
        except (EOFError, OSError):
            return 0
        if what == "validate":
            send_message_now(asked, _validate(environment, given))
        else:
            send_message_now(asked, _answer(environment, rows, what, given))


def _validate(environment: Any, given: Any) -> tuple[str, Any]:
    """What the environment's own check finds in a task."""
    try:
        return "is", environment.validate_task(*given)
    except Exception as error:  # noqa: BLE001 - code of the environment's, whatever it raises
        return "failed", f"environment.id: a task cannot be checked: {type(error).__name__}: {error}"


def _answer(environment: Any, rows: dict[str, Rows], split: Any, index: int | None) -> tuple[str, Any]:
    """A task, or how many there are."""
    try:
        if split not in rows:
            rows[split] = environment.of_split(split).rows()
        return "is", len(rows[split]) if index is None else dict(rows[split][index])
    except EnvironmentLoadError as error:
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - code of the environment's, whatever it raises
        return "failed", f"environment.id: its tasks cannot be read: {type(error).__name__}: {error}"
