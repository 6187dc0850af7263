import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.sandboxes import OWNER, dummy, eventually, is_alive, process_settings, said
from workers.errors import SandboxDied, SandboxStartError
from workers.sandbox.base import Sandbox, Session
from workers.sandbox.capacity import most_sessions
from workers.sandbox.pool import SandboxPool
from workers.sandbox.process import ProcessSandbox
from workers.settings import SandboxSettings


class Pools:
    """Makes pools of process sandboxes, closes them, and knows every process they had."""

    def __init__(self) -> None:
        self.pools: list[SandboxPool] = []
        self.pids: list[int] = []

    def make(self, *, ahead: int = 1, spec: dict[str, Any] | None = None, **settings: Any) -> SandboxPool:
        self.pools.append(SandboxPool(dummy(**spec or {}), process_settings(**settings), OWNER, ahead))
        return self.pools[-1]


@pytest.fixture
async def pools(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pools]:
    made = Pools()
    launch = ProcessSandbox._launch

    async def noting(self: ProcessSandbox) -> Any:
        connection = await launch(self)
        assert self._process is not None
        made.pids.append(self._process.pid)
        return connection

    monkeypatch.setattr(ProcessSandbox, "_launch", noting)
    yield made
    for pool in made.pools:
        await pool.close()
    await eventually(lambda: not any(map(is_alive, made.pids)))


async def begun(pool: SandboxPool, name: str) -> Session:
    session = await pool.acquire(name)
    await session.open({})
    return session


def kill(sandbox: Sandbox) -> None:
    os.kill(int(sandbox.id.removeprefix("process-")), 9)


async def test_fork_all_sessions_share_one_sandbox(pools: Pools) -> None:
    pool = pools.make(recycle="fork")
    sessions = await asyncio.gather(*(begun(pool, f"s{i}") for i in range(8)))
    assert len({session.sandbox.id for session in sessions}) == 1
    for session in sessions:
        await pool.release(session)
    assert len(pools.pids) == 1
    assert sessions[0].sandbox.alive


async def test_fork_dead_sandbox_is_replaced(pools: Pools) -> None:
    pool = pools.make(recycle="fork")
    first = await begun(pool, "first")
    kill(first.sandbox)
    with pytest.raises(SandboxDied, match="its process ended"):
        await first.call("echo", {})
    second, third = await asyncio.gather(begun(pool, "second"), begun(pool, "third"))
    assert second.sandbox is third.sandbox is not first.sandbox
    await pool.release(first)
    await said(second, "echo")
    assert len(pools.pids) == 2


async def test_fork_sandbox_serves_no_more_episodes_than_it_may(pools: Pools) -> None:
    pool = pools.make(recycle="fork", max_episodes_per_container=3)
    sessions = [await begun(pool, f"s{i}") for i in range(7)]
    served = [session.sandbox.id for session in sessions]
    assert [served.count(sandbox) for sandbox in dict.fromkeys(served)] == [3, 3, 1]
    for session in sessions:
        await said(session, "echo")
        await pool.release(session)
    await eventually(lambda: [is_alive(pid) for pid in pools.pids] == [False, False, True])


async def test_fork_sessions_that_are_not_open_yet_count(pools: Pools) -> None:
    pool = pools.make(recycle="fork", max_episodes_per_container=2)
    sessions = await asyncio.gather(*(pool.acquire(f"s{i}") for i in range(5)))
    assert len({session.sandbox.id for session in sessions}) == 3
    for session in sessions:  # none was taken away from whoever had not come round to opening it
        await session.open({})


async def test_fork_warming_up_uses_up_no_episode(pools: Pools) -> None:
    pool = pools.make(recycle="fork", max_episodes_per_container=1)
    await pool.prepare()
    await begun(pool, "one")
    assert len(pools.pids) == 1


async def test_episode_each_session_has_a_sandbox_to_itself(pools: Pools) -> None:
    pool = pools.make(recycle="episode", ahead=2)
    sessions = await asyncio.gather(*(begun(pool, f"s{i}") for i in range(4)))
    used = [int(session.sandbox.id.removeprefix("process-")) for session in sessions]
    assert len(set(used)) == 4
    for session in sessions:
        await pool.release(session)
    await eventually(lambda: not any(map(is_alive, used)))


async def test_episode_next_sandboxes_are_prepared_ahead(pools: Pools) -> None:
    pool = pools.make(recycle="episode", ahead=2)
    session = await pool.acquire("one")
    await eventually(lambda: len(pools.pids) == 3)
    await eventually(lambda: all(ready.done() for ready in pool._ready))
    assert (await pool.acquire("two")).sandbox is not session.sandbox
    assert len(pools.pids) == 3


async def test_episode_toolset_is_asked_how_it_wants_to_be_recycled(pools: Pools) -> None:
    pool = pools.make(spec={"weakest_recycle": "episode"}, ahead=0)
    sessions = await asyncio.gather(*(begun(pool, f"s{i}") for i in range(3)))
    assert len({session.sandbox.id for session in sessions}) == 3
    assert len(pools.pids) == 3  # the one that told is used like any other


async def test_episode_warmed_up_sandbox_is_the_first_that_is_used(pools: Pools) -> None:
    for settings in ({"recycle": "episode"}, {"spec": {"weakest_recycle": "episode"}}):
        pool = pools.make(ahead=0, **settings)  # type: ignore[arg-type]
        await pool.prepare()
        warm = pools.pids[-1]
        assert (await pool.acquire("one")).sandbox.id == f"process-{warm}"


async def test_episode_sandbox_that_died_waiting_is_not_handed_out(pools: Pools) -> None:
    pool = pools.make(recycle="episode", ahead=0)
    await pool.prepare()
    kill(await pool._ready[0])
    await eventually(lambda: not pool._ready[0].result().alive)
    await said(await begun(pool, "one"), "echo")


async def test_toolset_that_wants_a_fresh_sandbox_per_episode_is_not_forked_unless_insisted(
    pools: Pools,
) -> None:
    with pytest.raises(SandboxStartError, match=r"sandbox\.recycle is `fork`.*sandbox\.unsafe"):
        await pools.make(spec={"weakest_recycle": "episode"}, recycle="fork").acquire("one")
    await eventually(lambda: not any(map(is_alive, pools.pids)))
    insisting = pools.make(spec={"weakest_recycle": "episode"}, recycle="fork", unsafe=True)
    sessions = [await insisting.acquire(name) for name in ("one", "two")]
    assert sessions[0].sandbox is sessions[1].sandbox


async def test_models_code_is_not_run_without_a_container_unless_insisted(pools: Pools) -> None:
    with pytest.raises(SandboxStartError, match=r"code that the model writes.*sandbox\.unsafe"):
        await pools.make(spec={"runs_model_code": True}).acquire("one")
    await eventually(lambda: not any(map(is_alive, pools.pids)))
    await begun(pools.make(spec={"runs_model_code": True}, unsafe=True), "one")


@pytest.mark.parametrize("recycle", ["fork", "episode"])
async def test_start_that_fails_is_told_to_each_who_asked_and_the_next_tries_again(
    pools: Pools, recycle: str, tmp_path: Path
) -> None:
    pool = pools.make(recycle=recycle, spec={"preload": "fail"}, ahead=0)
    outcomes = await asyncio.gather(*(pool.acquire(f"s{i}") for i in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, SandboxStartError) for outcome in outcomes)
    assert all("there is no database" in str(outcome) for outcome in outcomes)
    with pytest.raises(SandboxStartError, match="there is no database"):
        await pool.acquire("again")


@pytest.mark.parametrize("recycle", ["fork", "episode"])
async def test_close_leaves_nothing(pools: Pools, recycle: str) -> None:
    pool = pools.make(recycle=recycle, ahead=2, max_episodes_per_container=1)
    sessions = [await begun(pool, name) for name in ("one", "two")]
    assert len(pools.pids) >= 2
    await pool.close()
    assert not any(map(is_alive, pools.pids))
    for session in sessions:
        await pool.release(session)
        with pytest.raises(SandboxDied, match="it was stopped"):
            await session.call("echo", {})
    with pytest.raises(SandboxStartError, match="going down"):
        await pool.acquire("three")
    await pool.close()


@pytest.mark.parametrize("recycle", ["fork", "episode"])
async def test_close_in_the_middle_of_a_start_leaves_nothing(pools: Pools, recycle: str) -> None:
    pool = pools.make(recycle=recycle, ahead=1)
    waiting = asyncio.create_task(pool.acquire("one"))
    await eventually(lambda: pools.pids)
    closing = asyncio.create_task(pool.close())
    await asyncio.wait([waiting, closing])
    closing.result()
    with pytest.raises((SandboxStartError, asyncio.CancelledError)):
        waiting.result()
    await eventually(lambda: not any(map(is_alive, pools.pids)))


@pytest.mark.parametrize("recycle", ["fork", "episode"])
async def test_cancelled_acquire_leaves_the_pool_usable(pools: Pools, recycle: str) -> None:
    pool = pools.make(recycle=recycle, ahead=0)
    waiting = asyncio.create_task(pool.acquire("one"))
    await eventually(lambda: pools.pids)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await eventually(lambda: not is_alive(pools.pids[0]))
    await said(await begun(pool, "two"), "echo")


async def test_sandbox_that_came_up_as_its_asker_was_cancelled_is_ended(pools: Pools) -> None:
    pool = pools.make(recycle="episode", ahead=0)
    waiting = asyncio.create_task(pool.acquire("one"))
    await eventually(lambda: pools.pids)
    for _ in range(10_000_000):  # to the very turn of the loop in which it is up, before the asker runs
        if pool._up:
            break
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await eventually(lambda: not is_alive(pools.pids[0]))


@pytest.mark.slow
async def test_stop_does_not_wait_for_a_daemon_that_holds_stderr_open(pools: Pools) -> None:
    pool = pools.make(recycle="fork")
    session = await begun(pool, "one")
    pids = [int(pid) for pid in (await said(session, "daemon")).strip("[]").split(",")]
    kill(session.sandbox)
    async with asyncio.timeout(60):
        await pool.close()
    for pid in pids:  # nobody is left to end it: the tool host was killed, and there is no container
        os.kill(pid, 9)
    await asyncio.sleep(0.05)  # for asyncio to see that the pipe is closed at last


async def test_fork_session_too_many_waits_for_a_place(pools: Pools) -> None:
    pool = pools.make(recycle="fork", max_sessions=2)
    one, two = await begun(pool, "one"), await begun(pool, "two")
    third = asyncio.create_task(begun(pool, "three"))
    await said(one, "echo")
    assert not third.done()
    await pool.release(two)
    await pool.release(two)  # gives its place back once
    await said(await third, "echo")
    fourth = asyncio.create_task(pool.acquire("four"))
    await said(one, "echo")
    assert not fourth.done()
    await pool.close()
    with pytest.raises(SandboxStartError, match="going down"):
        await fourth


async def test_fork_place_of_a_session_whose_sandbox_died_is_given_back(pools: Pools) -> None:
    pool = pools.make(recycle="fork", max_sessions=1)
    for number in range(3):
        session = await begun(pool, f"s{number}")
        kill(session.sandbox)
        await session.sandbox.died.wait()
        await pool.release(session)
    assert len(pools.pids) == 3


async def test_fork_start_that_fails_keeps_no_place(pools: Pools) -> None:
    pool = pools.make(recycle="fork", max_sessions=1, spec={"preload": "fail"})
    for _ in range(3):
        with pytest.raises(SandboxStartError, match="there is no database"):
            await pool.acquire("one")


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({}, 108),
        ({"memory_mb": 1024}, 44),
        ({"memory_mb": 64}, 1),
        ({"pids": 16}, 8),
        ({"memory_mb": 64, "max_sessions": 30}, 30),
        ({"backend": "process"}, None),
    ],
)
def test_places_are_what_memory_and_processes_have_room_for(
    settings: dict[str, Any], places: int | None
) -> None:
    assert most_sessions(SandboxSettings(**settings)) == places
