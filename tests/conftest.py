"""What test modules of all folders share."""

import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from cluster.ray_session.kept import stop_kept
from tests.e2e.kumite import cache_in
from tests.helpers.drivers import cluster_processes, drive, kumite_policy
from tests.helpers.sandboxes import forked_tool_hosts
from workers.settings import PolicyEndpoint

settings.register_profile("any-speed", deadline=None)  # a machine that is busy is no fault
settings.load_profile("any-speed")
gc.set_threshold(50_000, 10, 10)  # a fifth of the time of all imports was the collector's
_GROUPS = ("ray", "first hour", "vllm", "own ray", "parity")
_ENDED_WITH_A_GROUP = ("kept_ray", "vllm_cache")
"""Fixtures of the session of which the next group that asks for one gets another."""


def _group(item: pytest.Item) -> str:
    named = item.get_closest_marker("group")
    if named is not None:
        return str(named.args[0])
    marks = {mark.name for mark in item.iter_markers()}
    return next((mark for mark in ("vllm", "ray", "parity") if mark in marks), item.path.stem)


def _rank(group: str) -> int:
    return _GROUPS.index(group) if group in _GROUPS else len(_GROUPS)


def _is_slow(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("slow", "docker", "faults"))


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
    share a cluster, those of vLLM a deployment. The others go by files, if they name no group: slow ones
    first, so that at the end no process waits for long for another.
    """
    if not config.getoption("--exhaustive"):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if config.getoption("loadgroup", False):
        slow = {_group(item) for item in items if _is_slow(item)}
        items.sort(key=lambda item: (_rank(_group(item)), _group(item) not in slow))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuses to go on if pytest-xdist does not see the groups: tests that share something would meet.

    What is imported by now is there to stay: the collector need not look at it again.
    """
    gc.freeze()
    if session.config.getoption("loadgroup", False):
        loose = [item.nodeid for item in session.items if not item.nodeid.endswith(f"@{_group(item)}")]
        assert not loose, f"pytest-xdist sees no group of {len(loose)} tests, of {loose[0]} for one"


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends with a group what its tests share: a Ray cluster that nobody uses takes a tenth of a core."""
    if nextitem is not None and _group(nextitem) != _group(item):
        manager: Any = item.session._fixturemanager
        for name in _ENDED_WITH_A_GROUP:
            for definition in manager._arg2fixturedefs.get(name, ()):
                definition.finish(item._request)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(autouse=True)
def renderers_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of the package `renderers` is its process's, and tests have a loop each."""
    client: Any = sys.modules.get("renderers.client")
    if client is not None:
        monkeypatch.setattr(client, "_max_prompt_len_lock", asyncio.Lock())


@pytest.fixture(scope="module")
def agentdojo_forks() -> Iterator[None]:
    """AgentDojo's tool hosts without a container are forks: each would take a second to import it."""
    with forked_tool_hosts(["sandbox_images.agentdojo.toolset"]):
        yield


@pytest.fixture(scope="session")
def kept_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of a Ray that is up for the session, which runs with this `KUMITE_CACHE` join.

    For tests that are not about how a run's own cluster begins and ends, which takes seconds each time.
    """
    cache = cache_in(tmp_path_factory.mktemp("kept") / "cache")
    assert drive(cache, "ray", "{}", "keep", "resident", "8")["kept"]
    yield cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMITE_CACHE", str(cache))
        assert stop_kept()


@pytest.fixture(scope="session")
def vllm_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the session's own kept policy; what is slow to make is shared with the user's.

    A process with `KUMITE_CACHE` set to it finds, beside `vllm_endpoint`, the deployment that serves it.
    """
    folder = cache_in(tmp_path_factory.mktemp("vllm") / "cache")
    yield folder
    before = cluster_processes(folder)
    said = kumite_policy(folder, "down", "--force")
    assert said == ("ended\n" if before else "no policy is kept\n")
    if before:
        holder = before[0].session
        assert not cluster_processes(folder, holder), "the kept policy left processes"
        assert not list(Path(tempfile.gettempdir()).glob(f"kumite-vllm-{holder}-*")), "it left its folder"


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model that `vllm_endpoint` serves: small, since no test is about what it says."""
    from tests.helpers.small_model import write_small_model

    return write_small_model(tmp_path_factory.mktemp("models") / "small-llama")


@pytest.fixture(scope="session")
def vllm_endpoint(vllm_cache: Path, vllm_model: Path) -> PolicyEndpoint:
    """A small model on vLLM, up for the session; this process stays out of its Ray cluster."""
    policy = {"model": str(vllm_model), "keep_alive": True, "adapters": {}}
    told = drive(vllm_cache, "policy", json.dumps(policy), timeout=500)
    assert "endpoint" in told, told
    return PolicyEndpoint.model_validate(told["endpoint"])


@pytest.fixture(scope="module")
def model_weights(vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path) -> None:
    """The deployment serves the model's own weights, whatever the tests before this module have given it."""
    from cluster.policy.vllm import kept_policy
    from tests.helpers.asking import read_served_version

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUMITE_CACHE", str(vllm_cache))
        kept_policy.update_kept_policy(vllm_model, read_served_version() + 1)
