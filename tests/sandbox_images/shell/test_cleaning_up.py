"""A command that outlives its limit on a machine that is busy: it is told in time, and costs no session."""

import ctypes
import os
import resource
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from sandbox_images.shell import shell as shell_module
from sandbox_images.shell.processes import ProcessFamily, UnkillableProcesses
from sandbox_images.shell.shell import Shell
from tests.helpers.apart import played_apart

pytestmark = pytest.mark.slow


def made(folder: Path, family: ProcessFamily) -> Shell:
    """A shell of this process, which adopts orphans as a session does, whose family these are."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    return Shell(str(folder), {"PATH": os.environ["PATH"]}, family, 1000)


class SlowFamily(ProcessFamily):
    """The first kill of it takes longer than there is time for."""

    def __init__(self) -> None:
        super().__init__()
        self.kills = 0

    def kill(self, spared: Collection[int] = (), seconds: float | None = None) -> None:
        self.kills += 1
        if self.kills == 1:
            raise UnkillableProcesses("so busy is the machine")
        super().kill(spared, seconds)


@played_apart
def test_descriptors_of_any_number_are_waited_for(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2048), limits[1]))
    for _ in range(1100):
        os.open(os.devnull, os.O_RDONLY)
    family = ProcessFamily()
    shell = made(tmp_path, family)
    assert shell.run("echo on; echo " + "a" * 100_000, 60).output.startswith("on\na")
    family.kill()


@played_apart
def test_kill_that_takes_too_long_is_finished_before_the_next_command(tmp_path: Path) -> None:
    family = SlowFamily()
    shell = made(tmp_path, family)
    older = shell.run("sleep 1000 & echo $!", 60)
    late = shell.run("sleep 3000 & sleep 2000", 2.0)
    assert (late.status, late.shell_ended) == (None, True)
    assert len(family.alive()) >= 3
    after = shell.run("echo on", 60)
    assert (after.output, after.status) == ("on\n", 0)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family.alive()]
    assert sum(b"sleep" in command for command in commands) == 1
    assert int(older.output) in family.alive()
    family.kill()


@played_apart
def test_shell_that_does_not_come_back_in_time_is_replaced(tmp_path: Path) -> None:
    shell_module._CLEANING_UP = 0.0  # in this process alone
    family = ProcessFamily()
    shell = made(tmp_path, family)
    began = time.monotonic()
    assert shell.run("a=1; sleep 1000", 0.3).shell_ended
    assert time.monotonic() - began < 60
    assert shell.run("echo on", 60).output == "on\n"
    family.kill()


def test_cleaning_up_leaves_the_session_half_of_the_time_that_the_worker_waits() -> None:
    from workers.environments.shell import shell_env  # seconds, which the tests apart would take each

    assert shell_module._KILLING < shell_module._CLEANING_UP < 0.6 * shell_env._CLEANING_UP
