"""What an environment's code does to the process that runs it costs its own episode, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

import workers
from tests.helpers.fork_server import ForkServer
from tests.helpers.mock_policy import MockPolicy
from tests.helpers.rollouts import record, spec
from workers.errors import EnvironmentLoadError, LaneDied
from workers.lanes.interpreter import OwnPython
from workers.lanes.worker import LanedWorker
from workers.records import EpisodeResult
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

pytestmark = [pytest.mark.slow]
LIMIT = 4.0
"""Seconds that an episode gets which is to run out of them."""


@pytest.fixture(scope="module")
def policy() -> Iterator[MockPolicy]:
    with MockPolicy() as policy:
        yield policy


@pytest.fixture(scope="module")
def forks() -> Iterator[str]:
    """The address of a process that forks those of workers, as a driver on the same machine has one."""
    code = str(Path(workers.__file__).parent.parent)
    classic = "workers.environments.classic.environment"
    server = ForkServer(OwnPython(sys.executable, code), ["workers.lanes.process", classic])
    yield server.address
    server.close()


@contextmanager
def laned_worker(policy: MockPolicy, notes: Path | None = None, **settings: object) -> Iterator[LanedWorker]:
    worker = LanedWorker(
        WorkerSettings.model_validate(
            {
                "run_id": "test-run",
                "environment": EnvironmentSettings(
                    id="tests.helpers.blocking_environment", args={"notes": str(notes or "")}
                ),
                "sandbox": SandboxSettings(),
                "policy": PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url),
                "episodes": 8,
                "block_seconds": 2.0,
                **settings,
            }
        ),
        "worker",
    )
    try:
        worker.ready()
        yield worker
    finally:
        worker.stop()


@pytest.fixture(scope="module")
def worker(policy: MockPolicy, forks: str) -> Iterator[LanedWorker]:
    key = {"BLOCKING_API_KEY": SecretStr("sk-not-to-be-seen")}
    with laned_worker(policy, env=key, fork_server=forks) as worker:
        yield worker


def play(worker: LanedWorker, what: str, seconds: float | None = None) -> EpisodeResult:
    row = {"prompt": [{"role": "user", "content": what}], "answer": "", "example_id": 0}
    [result] = worker.play([spec(row, seconds_left=seconds)])
    return result


def together(worker: LanedWorker, *what: str) -> list[EpisodeResult]:
    """Plays episodes at once; only those that are to hang have a limit that counts."""
    hanging = ("regex", "stubborn", "careless", "setup")
    with ThreadPoolExecutor(len(what)) as threads:
        return list(threads.map(lambda w: play(worker, w, LIMIT if w in hanging else 120.0), what))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("regex", "broken off in graded (blocking_environment.py, line "),
        ("careless", "broken off in graded (blocking_environment.py, line "),
        ("setup", "broken off in setup_state (blocking_environment.py, line "),
        ("stubborn", "its process was killed; it was at: File "),
    ],
)
def test_code_that_hangs_costs_its_own_episode_only(worker: LanedWorker, what: str, words: str) -> None:
    hung, *others = together(worker, what, *["nothing"] * 5)
    assert [other.status for other in others] == ["finished"] * 5
    assert all(record(other).attempt == 1 for other in others)
    error = record(hung).error
    assert error is not None and hung.reward is None
    assert (error.type, error.kind) == ("EpisodeBlocked", "environment")
    assert words in error.message
    assert play(worker, "nothing").status == "finished", "the worker takes more"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("leave", "its code called sys.exit() or exit(): it raised SystemExit(3)"),
        ("interrupt", "its code raised KeyboardInterrupt()"),
        ("cancelled", "its code raised CancelledError(): it waited for something that had been cancelled"),
        ("grouped", "its code raised BaseExceptionGroup(of its own (1 sub-exception))"),
    ],
)
def test_what_would_end_the_loop_costs_its_own_episode_only(
    worker: LanedWorker, what: str, words: str
) -> None:
    failed, *others = together(worker, what, *["nothing"] * 3)
    assert [other.status for other in others] == ["finished"] * 3
    error = record(failed).error
    assert error is not None and error.kind == "environment" and words in error.message
    assert "in graded" in str(error.traceback)


def test_code_that_takes_long_has_a_process_to_itself(worker: LanedWorker) -> None:
    together(worker, "sleep 2.5", "nothing")
    results = together(worker, *["sleep 1.5"] * 4)
    assert len({result.reward for result in results}) == 4


def test_code_that_catches_its_cancellation_costs_its_own_episode_only(
    policy: MockPolicy, forks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.lanes.lanes._OVERDUE_AFTER", 1.0)
    monkeypatch.setattr("workers.lanes.lanes._STOP_TIMEOUT", 1.0)  # it does not end in order either
    with laned_worker(policy, fork_server=forks) as worker, ThreadPoolExecutor(4) as threads:
        endless = threads.submit(play, worker, "retries for ever", 1.0)
        others = [threads.submit(play, worker, "nothing", 120.0) for _ in range(3)]
        assert [other.result().status for other in others] == ["finished"] * 3
        error = record(endless.result(timeout=60)).error
        assert error is not None and (error.type, error.kind) == ("EpisodeBlocked", "environment")
        assert "its environment's code went on after its limit of 1 s" in error.message
        assert play(worker, "nothing").status == "finished", "the worker takes more"


def test_threads_that_an_environment_starts_when_it_loads_are_there_in_each_process(
    policy: MockPolicy, forks: str
) -> None:
    """A fork has none of its parent's threads: verifiers' own MCPEnv would wait for its background loop."""
    environment = EnvironmentSettings(id="tests.helpers.threaded_environment")
    with laned_worker(policy, environment=environment, fork_server=forks) as worker:
        assert [result.reward for result in together(worker, *["ask"] * 4)] == [2.0] * 4
        first = worker._lanes.pids
        with pytest.raises(LaneDied):
            play(worker, "exit", 60.0)
        assert play(worker, "ask", 60.0).reward == 2.0
        assert worker._lanes.pids != first


def test_signals_work(worker: LanedWorker) -> None:
    assert play(worker, "alarm").reward == 1.0


def test_a_process_that_dies_costs_what_killed_it_an_attempt(worker: LanedWorker) -> None:
    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(play, worker, "sleep 0.5") for _ in range(3)]
        with pytest.raises(LaneDied, match=r"the process \d+ that played it ended"):
            play(worker, "exit")
        assert [other.result().status for other in others] == ["finished"] * 3


def test_a_secret_is_not_in_what_is_written(worker: LanedWorker) -> None:
    result = play(worker, "key")
    assert "sk-not-to-be-seen" not in result.model_dump_json()
    assert "the key <BLOCKING_API_KEY> is refused" in record(result).error.message  # type: ignore[union-attr]


def test_a_process_that_leaks_is_replaced_between_episodes_and_each_tears_down(
    policy: MockPolicy, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    with laned_worker(policy, notes, memory_mb=550) as worker:
        pids = [play(worker, "leak").reward for _ in range(10)]
    assert len(set(pids)) > 1
    assert set(map(float, notes.read_text().split())) == set(pids)
    assert os.getpid() not in pids


def test_a_limit_that_the_environment_alone_passes_is_refused(policy: MockPolicy) -> None:
    with (
        pytest.raises(EnvironmentLoadError, match=r"workers\.memory_mb: got 20, and .* takes \d+ MiB before"),
        laned_worker(policy, memory_mb=20),
    ):
        pass


def test_the_process_that_watches_lanes_is_up_without_what_environments_import() -> None:
    program = "import sys, cluster.pool.node_worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not {"verifiers", "openai", "datasets", "pyarrow"} & set(done.stdout.split())
