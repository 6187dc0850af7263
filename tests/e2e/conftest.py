import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kumite import Run, cache_in
from tests.e2e.kumite_here import Ended, run_here
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.ray_head import ray_head


@pytest.fixture
def cache(tmp_path):
    return cache_in(tmp_path / "cache")


@pytest.fixture
def out(tmp_path):
    """A run's folder. Its name is the run's id, by which its containers are found among everyone's."""
    return tmp_path / f"run-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def kumite(cache):
    """Starts `kumite` processes; none of them outlives the test."""
    runs: list[Run] = []

    def start(*arguments: str | Path, cache: Path = cache, **how: Any) -> Run:
        runs.append(Run(*map(str, arguments), cache=cache, **how))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()


@pytest.fixture
def kumite_here(cache, capfd, monkeypatch):
    """Runs `kumite` in this process, for what its being one of its own makes no difference to."""
    monkeypatch.setenv("KUMITE_CACHE", str(cache))

    def run(*arguments: str | Path) -> Ended:
        return run_here(capfd, *arguments)

    return run


@pytest.fixture
def policy():
    """A policy that always looks at the balance."""
    with MockPolicy(default=Reply(None, [("get_balance", {})])) as policy:
        yield policy


@pytest.fixture(scope="module")
def head():
    """A Ray head of the module's own, for as many nodes and jobs as it likes."""
    with ray_head(cpus=4, job_stop_wait=240) as started:
        yield started


@pytest.fixture
def gate(tmp_path):
    """Where episodes of `slow_environment` wait."""
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder
