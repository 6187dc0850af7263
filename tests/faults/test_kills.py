"""Parts of a running sandbox are killed, stopped or taken away."""

import asyncio
import os
import random
import signal
from collections import Counter
from contextlib import suppress

import docker
import docker.errors
import pytest

from tests.faults.conftest import Pools
from tests.helpers.sandboxes import eventually, said
from workers.errors import SandboxDied, SandboxError, SessionLost
from workers.failures import failure_kind
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.faults]


def init(engine: docker.DockerClient, session: Session) -> int:
    """The tool host's process id on this machine."""
    return int(engine.api.inspect_container(session.sandbox.id)["State"]["Pid"])


def session_pids(engine: docker.DockerClient, session: Session) -> set[int]:
    """Process ids, on this machine, of the sessions in a container."""
    host = init(engine, session)
    listed = engine.api.top(session.sandbox.id, ps_args="-eo pid,ppid")["Processes"]
    return {int(pid) for pid, parent in listed if int(parent) == host}


async def test_sigkill_of_the_tool_host_costs_its_sessions_and_the_next_is_replaced(
    pools: Pools, engine: docker.DockerClient
) -> None:
    pool, elsewhere = pools.make(), pools.make()
    one, two = await pools.session(pool), await pools.session(pool)
    other = await pools.session(elsewhere)
    waiting = [asyncio.create_task(session.call("sleep", {"seconds": 60})) for session in (one, two)]
    await said(other, "echo")
    os.kill(init(engine, one), signal.SIGKILL)
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, SandboxDied) and "its stream closed" in str(outcome)
        assert failure_kind(outcome) == "sandbox"  # so it is retried
    await said(other, "echo")
    again = await pools.session(pool)
    assert again.sandbox is not one.sandbox
    await said(again, "echo")


async def test_sigkill_of_one_session_costs_only_it(pools: Pools, engine: docker.DockerClient) -> None:
    pool = pools.make()
    one = await pools.session(pool)
    [its_pid] = session_pids(engine, one)
    two = await pools.session(pool)
    waiting = asyncio.create_task(one.call("sleep", {"seconds": 60}))
    going_on = asyncio.create_task(two.call("sleep", {"seconds": 1}))
    await said(await pools.session(pool), "echo")
    os.kill(its_pid, signal.SIGKILL)
    with pytest.raises(SessionLost, match=r"its process ended by itself \(exit -9\)") as lost:
        await waiting
    assert failure_kind(lost.value) == "sandbox"
    assert (await going_on).content == "slept"
    assert (await pools.session(pool)).sandbox is one.sandbox


async def test_stopped_tool_host_is_ended_when_the_hosts_deadline_passes(
    pools: Pools, engine: docker.DockerClient, short_grace: None
) -> None:
    pool = pools.make()
    one, two = await pools.session(pool), await pools.session(pool)
    os.kill(init(engine, one), signal.SIGSTOP)
    late = asyncio.create_task(one.call("echo", {}, timeout=0.2))
    behind = asyncio.create_task(two.call("echo", {}, timeout=60))
    with pytest.raises(SandboxDied, match=r"call was not answered within 1\.2 s"):
        await late
    with pytest.raises(SandboxDied, match="call was not answered"):
        await behind
    again = await pools.session(pool)
    assert again.sandbox is not one.sandbox
    await said(again, "echo")


async def test_container_that_is_removed_is_replaced(pools: Pools, engine: docker.DockerClient) -> None:
    pool, elsewhere = pools.make(), pools.make()
    one, other = await pools.session(pool), await pools.session(elsewhere)
    waiting = asyncio.create_task(one.call("sleep", {"seconds": 60}))
    await said(other, "echo")
    with suppress(docker.errors.APIError):  # its own end may come first
        engine.api.remove_container(one.sandbox.id, force=True)
    with pytest.raises(SandboxDied, match="its stream closed"):
        await waiting
    await said(other, "echo")
    await said(await pools.session(pool), "echo")


async def test_container_out_of_memory_does_not_thrash(pools: Pools) -> None:
    """Of many sessions that want too much together, enough are killed, soon, for the rest to go on."""
    pool = pools.make(max_sessions=12, cpus=1.0)
    sessions = [await pools.session(pool) for _ in range(12)]
    async with asyncio.timeout(240):
        calls = [session.call("hoard", {"megabytes": 40}, timeout=200) for session in sessions]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        # One that had answered may have been killed for the sake of the next.
        calls = [session.call("echo", {}, timeout=200) for session in sessions]
        outcomes += await asyncio.gather(*calls, return_exceptions=True)
    lost = [outcome for outcome in outcomes if isinstance(outcome, SandboxError)]
    assert lost
    assert {failure_kind(error) for error in lost} == {"sandbox"}
    for session in sessions:
        with suppress(SandboxError):
            await pool.release(session)
    async with asyncio.timeout(240):
        await said(await pools.session(pool), "hoard", megabytes=40)


async def test_container_that_memory_does_not_come_back_to_is_replaced(
    pools: Pools, engine: docker.DockerClient
) -> None:
    """Many sessions run into its limit for real, and what one has left in `/dev/shm` outlives them all."""
    pool = pools.make(memory_mb=128, max_sessions=8, cpus=1.0)
    sessions = [await pools.session(pool) for _ in range(8)]
    exhausted = sessions[0].sandbox
    assert {session.sandbox for session in sessions} == {exhausted}
    leave = "file = open('/dev/shm/left', 'wb')\nfor _ in range(60): file.write(b'x' * (1 << 20))"
    assert await said(sessions[0], "attempt", code=leave) == "done"
    async with asyncio.timeout(240):
        calls = [session.call("hoard", {"megabytes": 60}, timeout=200) for session in sessions]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    ends = [outcome for outcome in outcomes if isinstance(outcome, SandboxError)]
    assert len(ends) == len(outcomes)
    # Who was found to have taken the memory must answer for it; the others are played again.
    assert all((failure_kind(end) == "sandbox") != (end.cause == "memory") for end in ends)
    for session in sessions:
        with suppress(SandboxError):
            await pool.release(session)
    again = await pools.session(pool)
    assert again.sandbox is not exhausted
    await said(again, "hoard", megabytes=60)
    await eventually(lambda: exhausted.id not in {c["Id"][:12] for c in engine.api.containers(all=True)})


async def test_kill_of_the_tool_host_by_the_kernel_is_a_dead_sandbox(
    pools: Pools, engine: docker.DockerClient
) -> None:
    """What the OOM killer does when no session is left to take: all die, and the pool replaces them."""
    pool = pools.make()
    sessions = [await pools.session(pool) for _ in range(8)]
    waiting = [asyncio.create_task(session.call("sleep", {"seconds": 60})) for session in sessions]
    await asyncio.sleep(0)
    os.kill(init(engine, sessions[0]), signal.SIGKILL)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, SandboxDied) for outcome in outcomes)
    for session in sessions:
        await pool.release(session)
    again = await asyncio.gather(*(pools.session(pool) for _ in range(8)))
    assert len({session.sandbox.id for session in again}) == 1


@pytest.mark.parametrize("cycles", [50, pytest.param(1000, marks=pytest.mark.exhaustive)])
async def test_soak_of_random_kills_leaves_no_container(
    pools: Pools, engine: docker.DockerClient, cycles: int
) -> None:
    """In each cycle a session is opened, something of it is killed, and it says true what became of it."""
    chance = random.Random(0)
    pool = pools.make(max_episodes_per_container=10)
    keeper = await pools.session(pool)
    lost: Counter[str] = Counter()
    for _ in range(cycles):
        others = session_pids(engine, keeper)
        session = await pools.session(pool)
        waiting = asyncio.create_task(session.call("sleep", {"seconds": 60}))
        what = chance.choices(["session", "tool host", "container"], [8, 1, 1])[0]
        if what == "session":
            [its_pid] = session_pids(engine, session) - others
            os.kill(its_pid, signal.SIGKILL)
        elif what == "tool host":
            os.kill(init(engine, session), signal.SIGKILL)
        else:
            with suppress(docker.errors.APIError):
                engine.api.remove_container(session.sandbox.id, force=True)
        with pytest.raises(SessionLost if what == "session" else SandboxDied):
            await asyncio.wait_for(waiting, 120)
        lost[what] += 1
        with suppress(SandboxError):
            await pool.release(session)
        if not keeper.sandbox.alive:
            with suppress(SandboxError):
                await pool.release(keeper)
            keeper = await pools.session(pool)
        await said(keeper, "echo")
    assert lost.total() == cycles and len(lost) == 3
    await pool.close()
    await eventually(
        lambda: engine.api.containers(all=True, filters={"label": f"kumite.run={pools.run}"}) == []
    )
