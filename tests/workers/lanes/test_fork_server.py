"""A process that is forked is as one that is started, and ends with whoever asked for it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from tests.helpers.mock_policy import MockPolicy
from tests.helpers.rollouts import record, spec
from tests.helpers.sandboxes import is_alive
from workers.lanes.fork_server import serve_forks
from workers.lanes.forked_process import ForkedProcess, fork_process
from workers.lanes.worker import LanedWorker
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

pytestmark = [pytest.mark.slow]
ROOT = Path(__file__).parents[3]
PROGRAM = "tests.helpers.forked_program"
DRIVER = """
import sys
from workers.collector import collect_seldom
from workers.lanes.fork_server import serve_forks
with collect_seldom(), serve_forks(sys.argv[1:]) as address:
    print(address, flush=True)
    sys.stdin.read()
"""
ASKER = f"""
import os, socket, sys, time
from workers.lanes.forked_process import fork_process
ours, theirs = socket.socketpair()
process = fork_process(sys.argv[1], "{PROGRAM}", os.environ, [theirs.fileno()])
theirs.close()
print(process and process.pid, flush=True)
time.sleep(600)
"""
PATIENCE = 120.0


def variables_of_all() -> dict[str, str]:
    """What all processes here find: this one's variables but for the one that pytest sets in each phase."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@contextmanager
def driver(*modules: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A driver, and the address of its server."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *modules],
        cwd=ROOT,
        env=variables_of_all(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def forked(
    address: str, *passed: int, **variables: str
) -> Iterator[tuple[ForkedProcess, dict[str, Any], socket.socket]]:
    """A forked process, what it finds, and the connection that it was passed."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours:
        given = {**variables_of_all(), **variables}
        process = fork_process(address, PROGRAM, given, [*passed, theirs.fileno()], patience=PATIENCE)
        theirs.close()
        assert process is not None
        try:
            yield process, json.loads(ours.recv(1 << 18)), ours
        finally:
            process.kill()
            process.wait(PATIENCE)


def usual_collector() -> list[int]:
    """How often a process of Python looks for garbage if nobody has asked for anything else."""
    program = "import gc, json; print(json.dumps(gc.get_threshold()))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=True)
    return json.loads(told.stdout)


def has_ended(pid: int) -> bool:
    end = time.monotonic() + PATIENCE
    while is_alive(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_it_is_as_one_that_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        driver(PROGRAM) as (_, address),
        open(tmp_path / "passed", "w") as passed,
        forked(address, passed.fileno(), RAY_JOB_ID="7") as (process, found, _),
    ):
        assert found["process"] == process.pid != os.getpid()
        assert found["arguments"][0] == str(passed.fileno())
        listing = 1  # the descriptor with which it lists them
        assert len(found["open"]) == len({0, 1, 2, *map(int, found["arguments"])}) + listing
        assert set(map(int, found["arguments"])) <= set(found["open"])
        assert found["variables"] == {**variables_of_all(), "RAY_JOB_ID": "7"}
        assert found["folder"] == str(tmp_path)
        assert found["path"] == sys.path
        assert found["input"] == os.devnull
        assert found["collector"] == usual_collector()
        assert found["threads"] == 1
        assert os.getpgid(process.pid) != os.getpgid(0)


def test_two_of_them_draw_different_numbers() -> None:
    with driver(PROGRAM) as (_, address), forked(address) as (_, one, _), forked(address) as (_, other, _):
        assert one["drawn"] != other["drawn"]


@pytest.mark.parametrize(("told", "status"), [("0", 0), ("3", 3), ("raise", 1), ("kill", -signal.SIGKILL)])
def test_its_status_is_told(told: str, status: int) -> None:
    with driver() as (_, address), forked(address) as (process, _, connection):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.kill() if told == "kill" else connection.send(told.encode())
        assert process.wait(PATIENCE) == status
        assert process.wait() == status
        process.kill()
        assert has_ended(process.pid)


def test_it_ends_with_the_process_that_asked_for_it() -> None:
    with driver() as (_, address):
        command = [sys.executable, "-c", ASKER, address]
        with subprocess.Popen(
            command, cwd=ROOT, env=variables_of_all(), stdout=subprocess.PIPE, text=True
        ) as asker:
            assert asker.stdout is not None
            pid = int(asker.stdout.readline())
            assert psutil.pid_exists(pid)
            asker.kill()
        assert has_ended(pid)
        with forked(address) as (process, _, _):  # the server is there for others
            assert process.pid != pid


def test_many_at_once_each_get_their_own_and_leave_nothing() -> None:
    """They end, are killed, or are let go of, as it comes, while others are asked for."""

    def ask(number: int) -> int:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        with ours:
            process = fork_process(address, PROGRAM, variables_of_all(), [theirs.fileno()], patience=PATIENCE)
            theirs.close()
            assert process is not None
            found = json.loads(ours.recv(1 << 18))
            assert found["process"] == process.pid
            ending = ("0", "7", "raise", "kill", "let go")[number % 5]
            if ending == "let go":
                del process
                assert has_ended(found["process"])
                return 0
            process.kill() if ending == "kill" else ours.send(ending.encode())
            return process.wait(PATIENCE)

    with driver() as (_, address):
        with forked(address) as (process, _, _):
            server = psutil.Process(psutil.Process(process.pid).ppid())
        with ThreadPoolExecutor(12) as threads:
            statuses = list(threads.map(ask, range(120)))
        assert statuses == [0, 7, 1, -signal.SIGKILL, 0] * 24
        end = time.monotonic() + PATIENCE
        while server.children() or server.num_fds() > len(("input", "output", "errors", "listener")):
            assert time.monotonic() < end, (server.children(), server.num_fds())
            time.sleep(0.02)  # it tells that a process has ended before it closes what it had for it


@pytest.mark.parametrize("how", ["is killed", "leaves the block"])
def test_all_of_them_end_with_the_driver(how: str) -> None:
    with driver() as (process, address), forked(address) as (one, _, _):
        server = psutil.Process(one.pid).ppid()
        if how == "is killed":
            process.kill()
        else:
            assert process.stdin is not None
            process.stdin.close()
        assert one.wait(PATIENCE) == -signal.SIGKILL
        assert has_ended(one.pid)
        assert has_ended(server)
        assert fork_process(address, PROGRAM, variables_of_all(), []) is None


def test_none_is_forked_that_finds_other_variables_than_the_modules_did() -> None:
    with driver() as (_, address):
        assert fork_process(address, PROGRAM, {**variables_of_all(), "HF_HOME": "/elsewhere"}, []) is None
        with forked(address, OMP_NUM_THREADS="1") as (_, found, _):
            assert found["variables"]["OMP_NUM_THREADS"] == "1"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_another_user_gets_none() -> None:
    with driver() as (_, address):
        program = ASKER.replace("ours, theirs =", "os.setuid(65534)\nours, theirs =")
        command = [sys.executable, "-c", program.replace("time.sleep(600)", ""), address]
        done = subprocess.run(
            command, cwd=ROOT, env=variables_of_all(), capture_output=True, text=True, timeout=600
        )
        assert done.stdout == "None\n", done.stderr


def test_a_process_with_threads_is_not_forked() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with serve_forks([]) as address:
            assert address is None
    finally:
        ended.set()
        thread.join()


def test_lanes_are_forked_from_it_and_play() -> None:
    with MockPolicy() as policy, driver("workers.lanes.process") as (_, address):
        settings = WorkerSettings(
            run_id="test-run",
            environment=EnvironmentSettings(id="tests.helpers.blocking_environment", args={"notes": ""}),
            sandbox=SandboxSettings(),
            policy=PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url),
            fork_server=address,
            env={name: SecretStr(value) for name, value in variables_of_all().items()},
            whole_env=True,
        )
        worker = LanedWorker(settings, "worker")
        try:
            worker.ready()
            [lane] = worker._lanes.pids
            loader = psutil.Process(lane).parent()
            assert loader is not None
            server = loader.parent()
            assert server is not None
            assert server.name() == "kumite-forks"
            row = {"prompt": [{"role": "user", "content": "plain"}], "answer": "", "example_id": 0}
            [result] = worker.play([spec(row)])
            assert record(result).status == "finished"
        finally:
            worker.stop()
        assert has_ended(lane)
        assert has_ended(loader.pid)
