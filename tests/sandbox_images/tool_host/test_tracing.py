"""Sessions that make the tool host, or each other, tracers: no child of it can end the tool host."""

import pytest

from tests.helpers.hostile import (
    STOP_CONTINUE_AND_EXIT_WITH_EVERYTHING,
    TRACED_AND_FULL_OF_THREADS,
    TRACED_BY_ITS_CHILD,
    TRACED_BY_ITS_PARENT,
)
from tests.helpers.sandboxes import eventually, opened, process_sandbox, said
from workers.errors import SessionLost

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_session_that_makes_the_tool_host_its_tracer_costs_itself() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        with pytest.raises(SessionLost) as lost:
            await session.call("attempt", {"code": TRACED_BY_ITS_PARENT}, 30)
        assert lost.value.cause == "session"
        await session.close()
        await said(other, "echo")
        await said(await opened(sandbox, "next"), "echo")
        assert (await sandbox.request("stats", 10))["sessions"] == ["next", "other"]


async def test_threads_that_stop_cost_their_session_at_most() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        with pytest.raises(SessionLost):
            await session.call("attempt", {"code": TRACED_AND_FULL_OF_THREADS}, 30)
            await session.call("echo", {}, 30)
        await session.close()
        await said(other, "echo")


async def test_session_whose_child_traces_it_is_closed_all_the_same() -> None:
    """It is dead when it is killed, but not given up before its tracer has looked, or is dead as well."""
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        seen = await said(session, "attempt", code=TRACED_BY_ITS_CHILD)
        if seen != "traced":
            pytest.skip(f"this machine lets no child trace its parent: {seen}")
        await session.close()
        await said(other, "echo")
        assert (await sandbox.request("stats", 10))["sessions"] == ["other"]


@pytest.mark.slow
async def test_session_whose_child_traces_it_ends_by_itself_all_the_same() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        if await said(session, "attempt", code=TRACED_BY_ITS_CHILD) != "traced":
            pytest.skip("this machine lets no child trace its parent")
        with pytest.raises(SessionLost):
            await session.call("exit", {"status": 0}, 3)
        await said(other, "echo")

        async def gone() -> bool:
            return (await sandbox.request("stats", 10))["sessions"] == ["other"]

        for _ in range(100):
            if await gone():
                break
            await said(other, "sleep", seconds=0.05)
        assert await gone()


async def test_stopped_orphans_are_ended() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        assert await said(session, "attempt", code=STOP_CONTINUE_AND_EXIT_WITH_EVERYTHING) == "left"
        await session.close()
        await said(other, "echo")
        assert sandbox._process is not None
        tool_host = sandbox._process.pid
        listing = f"/proc/{tool_host}/task/{tool_host}/children"

        def alone() -> bool:
            with open(listing) as children:
                return len(children.read().split()) == 1

        await eventually(alone)


@pytest.mark.parametrize(
    "kind", ["lost", "closed", "memory", "capacity", "port", "timeout", "preload", "setup"]
)
async def test_session_can_tell_of_no_failure_that_is_the_tool_hosts_to_tell(kind: str) -> None:
    """A policy could have its episode thrown away by one that is the machine's fault."""
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        mine = sandbox._connection._last_id + 1  # type: ignore[union-attr]
        error = {"kind": kind, "type": kind, "message": "not me", "trace": ""}
        with pytest.raises(SessionLost, match="not a session's to tell of") as lost:
            await session.call("forge", {"frames": [{"id": mine, "ok": False, "error": error}]}, 30)
        assert lost.value.cause == "protocol"
        await said(other, "echo")
