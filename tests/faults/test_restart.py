"""The engine goes, with all that it runs, and comes back."""

import asyncio
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from tests.faults.conftest import Pools
from tests.helpers.leftovers import Holdings, assert_nothing_left
from tests.helpers.own_engine import OwnEngine, own_engine
from tests.helpers.sandboxes import said
from workers.errors import SandboxDied, SandboxStartError
from workers.failures import failure_kind
from workers.sandbox.base import Session
from workers.sandbox.pool import SandboxPool

pytestmark = [pytest.mark.docker, pytest.mark.faults]


@pytest.fixture(scope="module")
def restarted(dummy_image: str, engine: docker.DockerClient) -> Iterator[OwnEngine]:
    with own_engine() as own:
        own.load(dummy_image, engine)
        yield own


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
async def test_engine_that_is_restarted_under_load_costs_what_was_in_it_and_serves_again(
    dummy_image: str,
    restarted: OwnEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # others' temporary files are not to be counted
    monkeypatch.setenv("DOCKER_HOST", restarted.url)
    restarted.start()
    client = docker.DockerClient(base_url=restarted.url, timeout=60)
    pools = Pools(dummy_image)
    before = Holdings.now(client, pools.run)
    shared, alone = pools.make(), pools.make(recycle="episode", ahead=2)
    await all_is_lost(pools, shared, alone, restarted, how)
    restarted.start()
    for pool in (shared, alone):
        await said(await pools.session(pool), "echo")
    await pools.close()
    expected = replace(before, processes=before.processes | {restarted.pid})
    await asyncio.to_thread(assert_nothing_left, expected, client, pools.run, pools.containers)
    client.close()


async def all_is_lost(
    pools: Pools, shared: SandboxPool, alone: SandboxPool, engine: OwnEngine, how: signal.Signals
) -> None:
    sessions = [await pools.session(pool) for pool in [shared] * 6 + [alone] * 2]
    waiting = [asyncio.create_task(session.call("sleep", {"seconds": 60})) for session in sessions]
    starting = [asyncio.create_task(pools.session(alone)) for _ in range(4)]
    await said(await pools.session(shared), "echo")
    await asyncio.to_thread(engine.end, how)
    for outcome in await asyncio.gather(*waiting, *starting, return_exceptions=True):
        if isinstance(outcome, Session):  # it was there just before the end
            with pytest.raises(SandboxDied):
                await outcome.call("echo", {})
            continue
        assert isinstance(outcome, SandboxDied | SandboxStartError), outcome
        assert failure_kind(outcome) == "sandbox"  # so it is retried
    for pool in (shared, alone):
        with pytest.raises(SandboxStartError, match="Docker engine"):
            await pool.acquire("while it is down")
