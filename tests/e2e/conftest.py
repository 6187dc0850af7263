import os
from pathlib import Path

import pytest

from cluster.cache import cache_dir
from tests.e2e.kumite import Run
from tests.helpers.mock_policy import MockPolicy, Reply


@pytest.fixture
def cache(tmp_path):
    """A cache of the test's own, so that it never meets a kept cluster; what is slow to make is shared."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for name in ("models", "sites", "locks"):
        (cache_dir() / name).mkdir(parents=True, exist_ok=True)
        os.symlink(cache_dir() / name, folder / name)
    return folder


@pytest.fixture
def kumite(cache):
    """Starts `kumite` processes; none of them outlives the test."""
    runs: list[Run] = []

    def start(*arguments: str | Path, env: dict[str, str] | None = None) -> Run:
        runs.append(Run(*map(str, arguments), cache=cache, env=env))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.kill()


@pytest.fixture
def slow_policy():
    """A policy that takes a second per turn and always looks at the balance."""
    with MockPolicy(default=Reply(None, [("get_balance", {})]), latency=1.0) as policy:
        yield policy
