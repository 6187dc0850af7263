"""What test modules of all folders share."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from cluster.cache import cache_dir
from tests.helpers.drivers import DRIVER, cluster_processes, driver_environment, kumite_policy
from workers.settings import PolicyEndpoint

settings.register_profile("any-speed", deadline=None)  # a machine that is busy is no fault
settings.load_profile("any-speed")
_GROUPS = ("ray", "vllm", "docker", "parity")


def _group(item: pytest.Item) -> str:
    marks = {mark.name for mark in item.iter_markers()}
    return next((mark for mark in ("vllm", "ray", "parity", "docker") if mark in marks), item.path.stem)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="play the tests marked `exhaustive`, too: thousands of random cases, for minutes to hours",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out exhaustive tests unless they are asked for, and assigns each other test to a group.

    The tests of one group are played one after the other where several processes share them. Those on Ray
    share a head, and count what they started; those of vLLM share a deployment, those of containers an
    image. The others go by files. The longest row begins first.
    """
    if not config.getoption("--exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if config.getoption("loadgroup", False):
        items.sort(key=lambda item: (*_GROUPS, _group(item)).index(_group(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuses to go on if pytest-xdist does not see the groups: tests that share something would meet."""
    if session.config.getoption("loadgroup", False):
        loose = [item.nodeid for item in session.items if not item.nodeid.endswith(f"@{_group(item)}")]
        assert not loose, f"pytest-xdist sees no group of {len(loose)} tests, of {loose[0]} for one"


@pytest.fixture(scope="session")
def vllm_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the session's own kept policy; what is slow to make is shared with the user's.

    A process with `KUMITE_CACHE` set to it finds, beside `vllm_endpoint`, the deployment that serves it.
    """
    folder = tmp_path_factory.mktemp("cache")
    for name in ("models", "sites", "locks"):
        (cache_dir() / name).mkdir(parents=True, exist_ok=True)
        os.symlink(cache_dir() / name, folder / name)
    yield folder
    before = cluster_processes(folder)
    said = kumite_policy(folder, "down", "--force")
    assert said == ("ended\n" if before else "no policy is kept\n")
    if before:
        holder = before[0].session
        assert not cluster_processes(folder, holder), "the kept policy left processes"
        assert not list(Path(tempfile.gettempdir()).glob(f"kumite-vllm-{holder}-*")), "it left its folder"


@pytest.fixture(scope="session")
def vllm_endpoint(vllm_cache: Path) -> PolicyEndpoint:
    """The packaged model on vLLM, up for the session; this process stays out of its Ray cluster."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), "policy", '{"keep_alive": true, "adapters": {}}'],
        env=driver_environment(vllm_cache),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert "endpoint" in told, told
    return PolicyEndpoint.model_validate(told["endpoint"])
