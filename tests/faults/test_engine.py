"""An engine that hangs, fails, or is asked for very much at once."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Pools
from tests.helpers.fake_engine import CREATE, START, FakeEngine
from tests.helpers.sandboxes import said
from workers.errors import SandboxStartError
from workers.failures import failure_kind
from workers.sandbox.creation import AT_ONCE

pytestmark = [pytest.mark.docker, pytest.mark.faults]


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pools: Pools) -> Iterator[FakeEngine]:
    with FakeEngine(tmp_path / "docker.sock") as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.url)
        yield fake
        fake.heal()


@pytest.mark.parametrize("request_line", [CREATE, START], ids=["create", "start"])
async def test_engine_that_hangs_fails_the_start_in_time_and_leaves_nothing(
    pools: Pools, fake_engine: FakeEngine, request_line: str
) -> None:
    pool = pools.make(start_timeout=1.0)
    fake_engine.hang_on(request_line)
    began = time.monotonic()
    with pytest.raises(SandboxStartError, match=r"within sandbox\.start_timeout, 1 s") as failed:
        await pool.acquire("one")
    assert time.monotonic() - began < 60  # the engine hangs for longer
    assert failure_kind(failed.value) == "sandbox"
    fake_engine.heal()  # what hung comes through late, and must not stay
    patient = pools.make()
    await said(await pools.session(patient), "echo")
    await pool.close()
    await patient.close()


@pytest.mark.parametrize("request_line", [CREATE, START], ids=["create", "start"])
async def test_engine_without_space_says_so_and_the_next_start_works(
    pools: Pools, fake_engine: FakeEngine, request_line: str
) -> None:
    pool = pools.make()
    fake_engine.fail_on(request_line, "mkdir /var/lib/docker/overlay2/x: no space left on device")
    with pytest.raises(SandboxStartError, match="no space left on device") as failed:
        await pool.acquire("one")
    assert failure_kind(failed.value) == "sandbox"
    fake_engine.heal()
    await said(await pools.session(pool), "echo")
    await pool.close()


async def test_20_workers_that_start_at_once_do_not_flood_the_engine(
    pools: Pools, fake_engine: FakeEngine
) -> None:
    made = [pools.make(memory_mb=128) for _ in range(20)]
    async with asyncio.timeout(240):
        sessions = await asyncio.gather(*(pools.session(pool) for pool in made))
    assert len({session.sandbox.id for session in sessions}) == 20
    await asyncio.gather(*(said(session, "echo") for session in sessions))
    assert 1 <= fake_engine.most_at_once <= AT_ONCE
    await pools.close()


async def test_toolset_that_hangs_is_ended_at_the_hosts_deadline(pools: Pools) -> None:
    pool = pools.make(preload="hang", start_timeout=3.0)
    with pytest.raises(SandboxStartError, match="did not come up within 3 s"):
        await pool.acquire("one")
