"""Lanes that load the environment themselves, for a fork has none of the threads that its code has started.

An environment that runs an event loop, a server's client or a pool of threads in the background would wait in
a forked lane for answers that nobody gives. (verifiers' own `MCPEnv` is one of these.)
"""

import os
import pickle
import sys
import threading
from typing import NoReturn

from workers.settings import WorkerSettings

Given = tuple[WorkerSettings, str, str]
"""What a lane is told: the worker's settings, its id, and its node's."""

_HARMLESS_MODULES = ("tqdm",)
"""Packages whose threads only draw bars."""
_HARMLESS_NAMES = ("fsspecIO",)
"""Threads that their package starts anew after a fork."""


def find_started_threads() -> list[str]:
    """Names of the threads, beside the main one, that a fork of this process would miss."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and type(thread).__module__.partition(".")[0] not in _HARMLESS_MODULES
        and thread.name not in _HARMLESS_NAMES
    ]


def start_anew(connection: int, board: int, stacks: int, slot: int, given: Given) -> NoReturn:
    """Puts in this process's place, a fork, one that loads the environment; its number stays.

    Args:
        connection: Descriptor of the lane's end of its connection.
        board: Descriptor of the board.
        stacks: Descriptor of the file for stacks.
        slot: The lane's place on the board.
        given: What the lane is told.
    """
    told = os.memfd_create("kumite-lane")
    with open(os.dup(told), "wb") as file:
        pickle.dump(given, file)
    os.lseek(told, 0, os.SEEK_SET)
    for descriptor in (connection, board, stacks, told):
        os.set_inheritable(descriptor, True)
    # The process that forks was started in the same way, with three arguments of its own.
    command = [*sys.orig_argv[:-3], *map(str, (connection, board, stacks, told, slot))]
    os.execv(sys.executable, command)


def read_given(told: int) -> Given:
    """Reads what `start_anew` has told this process.

    Args:
        told: The descriptor that was handed on.
    """
    with open(told, "rb") as file:
        return pickle.load(file)
