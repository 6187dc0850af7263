"""Sessions that die, hang or attack: each must take no other with it."""

import asyncio
import json
from typing import Any

import pytest

from tests.helpers.sandboxes import eventually, is_alive, opened, process_sandbox, process_settings, said
from workers.errors import SessionLost, SessionTimeout
from workers.sandbox.process import ProcessSandbox

FAKES: dict[str, list[Any]] = {
    "no JSON": ["{"],
    "no object": [[1, 2]],
    "of another request": [{"id": 999_999, "ok": True, "result": {}}],
    "the first frame of all": [{"id": 0, "ok": True, "result": {"protocol": 1}}],
    "without a request": [{"ok": True}],
    "an id that only equals one": [{"id": True, "ok": True}],
    "too deep": ["[" * 100_000],
}
FORGED: dict[str, dict[str, Any]] = {
    "ok that is no boolean": {"ok": 1},
    "failure without a reason": {"ok": False},
    "reason out of form": {"ok": False, "error": {"kind": "call"}},
    "field too many": {"ok": True, "result": {"content": "a", "error": None}, "more": 1},
    "result out of form": {"ok": True, "result": "all is well"},
    "result with a field too many": {"ok": True, "result": {"content": "a", "error": None, "reward": 1}},
    "nested deep": {"ok": True, "result": json.loads("[" * 700 + "]" * 700)},
    "nested deeper": {"ok": True, "result": json.loads("[" * 900 + "]" * 900)},
    "half a character": {"ok": True, "result": {"content": "\ud83d", "error": 1}},
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_call_over_its_limit_costs_only_its_session(sandbox: ProcessSandbox) -> None:
    slow, other = await opened(sandbox, "slow"), await opened(sandbox, "other")
    with pytest.raises(SessionTimeout, match="call did not end within its time limit"):
        await slow.call("sleep", {"seconds": 3600}, timeout=0.2)
    with pytest.raises(SessionLost):
        await slow.call("echo", {})
    await said(other, "echo")
    assert sandbox.alive


async def test_requests_behind_the_one_that_timed_out_are_lost_with_it(sandbox: ProcessSandbox) -> None:
    session = await opened(sandbox)
    late, behind = await asyncio.gather(
        session.call("sleep", {"seconds": 3600}, timeout=0.2),
        session.call("echo", {}, timeout=60),
        return_exceptions=True,
    )
    assert isinstance(late, SessionTimeout)
    assert isinstance(behind, SessionLost) and not isinstance(behind, SessionTimeout)
    assert "another request ran into its time limit" in str(behind)


@pytest.mark.slow
async def test_scoring_over_its_limit_costs_only_its_session() -> None:
    async with process_sandbox(settings=process_settings(call_timeout=1.5)) as sandbox:
        session = await opened(sandbox)
        with pytest.raises(SessionTimeout, match="evaluate did not end"):
            await session.evaluate({"hang": True})
        await said(await opened(sandbox, "next"), "echo")


@pytest.mark.parametrize(
    ("tool", "arguments", "cause"),
    [
        ("exit", {"status": 3}, r"its process ended by itself \(exit 3\)"),
        ("segfault", {}, r"its process ended by itself \(exit -11\)"),
        ("hang_up", {}, r"its process ended by itself"),
    ],
)
async def test_session_that_ends_by_itself_says_how(
    sandbox: ProcessSandbox, tool: str, arguments: dict[str, Any], cause: str
) -> None:
    session, other = await opened(sandbox), await opened(sandbox, "other")
    with pytest.raises(SessionLost, match=cause):
        await session.call(tool, arguments)
    await session.close()
    await said(other, "echo")


@pytest.mark.parametrize("tool", ["daemon", "leave_the_group", "shed_orphans"])
async def test_nothing_of_a_session_outlives_its_close(tool: str) -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        kept = json.loads(await said(other, "daemon", count=2))
        pids = json.loads(await said(session, tool))
        if tool != "shed_orphans":  # these have no session to adopt them: the tool host ends them at sight
            assert all(map(is_alive, pids))
        await session.close()
        assert not any(map(is_alive, pids))
        assert all(map(is_alive, kept))
        await said(other, "echo")


async def test_daemons_of_a_session_that_timed_out_are_ended() -> None:
    async with process_sandbox() as sandbox:
        session = await opened(sandbox)
        pids = json.loads(await said(session, "daemon", count=5))
        with pytest.raises(SessionTimeout):
            await session.call("sleep", {"seconds": 3600}, timeout=0.2)
        await eventually(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("frames", FAKES.values(), ids=FAKES.keys())
async def test_fake_frame_costs_only_its_session(sandbox: ProcessSandbox, frames: list[Any]) -> None:
    session, other = await opened(sandbox), await opened(sandbox, "other")
    waiting = asyncio.create_task(other.call("sleep", {"seconds": 0.2}))
    with pytest.raises(SessionLost, match="broke the protocol"):
        await session.call("forge", {"frames": frames})
    assert (await waiting).content == "slept"
    await said(other, "echo")
    assert sandbox.alive


@pytest.mark.parametrize("fields", FORGED.values(), ids=FORGED.keys())
async def test_forged_answer_to_its_own_request_costs_only_its_session(fields: dict[str, Any]) -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        mine = sandbox._connection._last_id + 1  # type: ignore[union-attr]
        with pytest.raises(SessionLost):
            await session.call("forge", {"frames": [json.dumps({"id": mine, **fields})]})
        await said(other, "echo")
        assert sandbox.alive
        await session.close()
        assert (await sandbox.request("stats", 10))["sessions"] == ["other"]


async def test_answer_out_of_form_costs_only_its_session() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        with pytest.raises(SessionLost, match="out of form"):
            await session.call("not_a_result", {})
        await said(other, "echo")
        assert sandbox.alive


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\0\0\0\2{}", b"\0\0\0\0", bytes(4096)])
async def test_garbage_on_every_open_descriptor_costs_only_its_session(garbage: bytes) -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        with pytest.raises(SessionLost, match="broke the protocol"):
            await session.call("write_everywhere", {"hex_bytes": garbage.hex()})
        await said(other, "echo")


@pytest.mark.slow
async def test_session_that_reads_no_more_does_not_stall_the_others() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        deaf = asyncio.create_task(session.call("hang_up", {"how": "read"}, timeout=1))
        loads = [
            asyncio.create_task(session.call("echo", {"text": "x" * 1_000_000}, timeout=60)) for _ in range(3)
        ]
        for _ in range(10):
            await said(other, "echo")
        for result in await asyncio.gather(deaf, *loads, return_exceptions=True):
            assert isinstance(result, SessionLost)
        await said(other, "echo")


async def test_session_cannot_trace_the_tool_host_or_another_session() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        assert sandbox._process is not None
        stat = f"/proc/{sandbox._process.pid}/status"
        assert "TracerPid:\t0" in await said(session, "read", path=stat)
        neighbour = json.loads(await said(other, "who"))["pid"]
        if json.loads(await said(session, "who"))["uid"] != 0:  # root may trace anything
            for pid in (sandbox._process.pid, neighbour):
                assert await said(session, "trace", pid=pid) == "Operation not permitted"


async def test_sandbox_that_is_given_up_is_hung_up_on() -> None:
    async with process_sandbox() as sandbox:
        session = json.loads(await said(await opened(sandbox), "who"))["pid"]
        process = sandbox._process
        assert process is not None
        sandbox.give_up("of a test")
        await eventually(lambda: process.returncode == 0 and not is_alive(session))
