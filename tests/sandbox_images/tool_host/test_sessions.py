"""What a worker can ask of a tool host's sessions, and what it is told."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.helpers.sandboxes import (
    dummy,
    eventually,
    is_alive,
    opened,
    process_sandbox,
    process_settings,
    said,
)
from workers.errors import (
    SandboxError,
    SandboxStartError,
    SessionLost,
    SessionSetupError,
    SessionTimeout,
    ToolsetError,
)
from workers.sandbox.process import ProcessSandbox
from workers.sandbox.wire import MAX_FRAME

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_many_requests_of_many_sessions_are_answered_over_one_pipe(sandbox: ProcessSandbox) -> None:
    sessions = [await opened(sandbox, f"s{i}") for i in range(16)]
    answers = await asyncio.gather(
        *(said(session, "echo", who=i, call=j) for j in range(40) for i, session in enumerate(sessions))
    )
    assert [json.loads(answer) for answer in answers] == [
        {"who": i, "call": j} for j in range(40) for i in range(16)
    ]


async def test_slow_call_does_not_delay_other_sessions(sandbox: ProcessSandbox) -> None:
    slow, quick = await opened(sandbox, "slow"), await opened(sandbox, "quick")
    sleeping = asyncio.create_task(slow.call("sleep", {"seconds": 3600}))
    for number in range(20):
        await said(quick, "echo", number=number)
    await said(await opened(sandbox, "new"), "echo")
    assert not sleeping.done()
    await slow.close()
    with pytest.raises(SessionLost, match="it was closed"):
        await sleeping


async def test_calls_of_one_session_run_in_order(sandbox: ProcessSandbox) -> None:
    session = await opened(sandbox)
    await asyncio.gather(*(session.call("put", {"key": "n", "value": n}) for n in range(50)))
    assert await session.state() == {"n": 49}


async def test_session_begins_with_what_its_toolset_says(sandbox: ProcessSandbox) -> None:
    session = sandbox.session("one")
    begun = await session.open({"greeting": "good day", "state_id": "other", "prepare": [1, {"a": 2}]})
    assert begun.observation == [{"role": "user", "content": "good day"}]
    assert begun.state_id == "other"
    assert "echo" in {tool.name for tool in begun.tools}
    assert await said(session, "tell", what="prepared") == "[1, {'a': 2}]"


async def test_sessions_do_not_see_each_others_changes(sandbox: ProcessSandbox) -> None:
    one, two = await opened(sandbox, "one"), await opened(sandbox, "two")
    await said(one, "put", key="a", value=1)
    assert await one.state() == {"a": 1}
    assert await two.state() == {}


async def test_evaluation_brings_the_patches_of_every_call(sandbox: ProcessSandbox) -> None:
    session = await opened(sandbox)
    await said(session, "put", key="score", value=0.5)
    await session.call("fail", {})
    await said(session, "put", key="b", value=[1])
    scores = await session.evaluate({"output": "done"})
    assert scores.metrics == {"score": 0.5, "none": None}
    assert scores.details == {"trace": {"output": "done"}}
    assert scores.patches == [
        [],
        [{"op": "add", "path": "/score", "value": 0.5}],
        [],
        [{"op": "add", "path": "/b", "value": [1]}],
    ]


@pytest.mark.slow
async def test_patches_that_come_to_too_much_are_left_out_of_the_evaluation(sandbox: ProcessSandbox) -> None:
    """Control characters take six bytes each: four of these patches alone are more than a frame holds."""
    session = await opened(sandbox)
    for _ in range(6):
        await said(session, "put", key="large", value="\x01" * (1 << 20))
    scores = await session.evaluate({})
    assert [patch is None for patch in scores.patches] == [False, False, *[True] * 5]


async def test_oracle_and_base_state_are_the_toolsets(sandbox: ProcessSandbox) -> None:
    script = [{"content": "", "tool_calls": [{"name": "echo", "arguments": {"a": 1}}]}]
    assert await (await opened(sandbox, script=script)).oracle() == script
    assert await sandbox.base_state("base") == {"state_id": "base"}
    with pytest.raises(ToolsetError, match="KeyError"):
        await sandbox.base_state("broken")


async def test_ping_and_stats_tell_of_the_tool_host() -> None:
    async with process_sandbox() as sandbox:
        await opened(sandbox, "one")
        await (await opened(sandbox, "two")).close()
        assert await sandbox.request("ping", 10) == {}
        assert await sandbox.request("stats", 10) == {"sessions": ["one"], "opened": 2, "processes": 1}


async def test_tool_that_fails_is_a_result(sandbox: ProcessSandbox) -> None:
    session = await opened(sandbox)
    result = await session.call("fail", {"message": "no such account"})
    assert (result.text, result.error) == ("no such account", "no such account")
    assert (await session.call("nothing", {})).text == "there is no tool nothing"


async def test_tool_that_raises_is_an_error_of_the_toolset_and_the_session_lives(
    sandbox: ProcessSandbox,
) -> None:
    session = await opened(sandbox)
    with pytest.raises(ToolsetError, match=r"(?s)ZeroDivisionError: a bug in a tool.*dummy_toolset"):
        await session.call("raise_error", {})
    assert await said(session, "echo", a=1) == '{"a": 1}'


async def test_state_patch_that_raises_is_told_with_the_next_answer(sandbox: ProcessSandbox) -> None:
    session = await opened(sandbox)
    await said(session, "put", key="break_patches", value=True)
    with pytest.raises(ToolsetError, match=r"(?s)RuntimeError: a bug in state_patch.*dummy_toolset"):
        await session.evaluate({})


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"prepare": "fail"}, "this task cannot be prepared"),
        ({"open": "fail"}, "this task cannot be set up"),
        ({"open": "raise"}, "ZeroDivisionError: a bug in open"),
        ({"open": "unspeakable"}, "TypeError.*not JSON serializable"),
    ],
)
async def test_refused_task_says_why_and_leaves_nothing(task: dict[str, str], complaint: str) -> None:
    async with process_sandbox() as sandbox:
        with pytest.raises(SessionSetupError, match=f"(?s){complaint}"):
            await opened(sandbox, "one", **task)
        await sandbox.session("one").close()
        stats = await sandbox.request("stats", 10)
        assert stats["sessions"] == []
        await said(await opened(sandbox, "one"), "echo")


async def test_session_whose_setup_ends_its_process_is_lost() -> None:
    async with process_sandbox() as sandbox:
        with pytest.raises(SessionLost, match="exit 5"):
            await opened(sandbox, open="exit")


async def test_setup_that_takes_too_long_is_ended() -> None:
    async with process_sandbox(settings=process_settings(setup_timeout=0.3)) as sandbox:
        with pytest.raises(SessionTimeout, match="open did not end within its time limit"):
            await opened(sandbox, open="hang")
        await said(await opened(sandbox, "two"), "echo")


async def test_second_session_of_a_name_is_refused_and_the_first_lives() -> None:
    async with process_sandbox() as sandbox:
        first = await opened(sandbox, "one")
        with pytest.raises(SessionSetupError, match="there is a session 'one' already"):
            await opened(sandbox, "one")
        await said(first, "echo")
        await first.close()
        await said(await opened(sandbox, "one"), "echo")


async def test_session_that_was_never_opened_or_was_closed_is_lost() -> None:
    async with process_sandbox() as sandbox:
        with pytest.raises(SessionLost, match="never opened, or it has ended"):
            await sandbox.session("nobody").call("echo", {})
        session = await opened(sandbox)
        await session.close()
        await session.close()
        with pytest.raises(SessionLost, match="never opened, or it has ended"):
            await session.call("echo", {})


@pytest.mark.slow
async def test_result_over_the_frame_limit_is_an_error_and_the_session_lives() -> None:
    async with process_sandbox() as sandbox:
        session = await opened(sandbox)
        assert len(await said(session, "big", size=MAX_FRAME // 2)) == MAX_FRAME // 2
        with pytest.raises(ToolsetError, match="over the limit"):
            await session.call("big", {"size": MAX_FRAME})
        await said(session, "echo")


async def test_request_over_the_frame_limit_is_refused_before_it_is_sent() -> None:
    async with process_sandbox() as sandbox:
        session = await opened(sandbox)
        with pytest.raises(SandboxError, match="over the limit"):
            await session.call("echo", {"text": "x" * MAX_FRAME})
        assert session.calls == 0
        assert sandbox.alive
        await said(session, "echo")


@pytest.mark.parametrize("depth", [150, 400, 900, 960, 990, 1500, 20_000])
async def test_deeply_nested_arguments_cost_nobody_their_session(sandbox: ProcessSandbox, depth: int) -> None:
    value: object = 1
    for _ in range(depth):
        value = [value]
    session, other = await opened(sandbox), await opened(sandbox, "other")
    try:
        await said(session, "echo", value=value)
    except SandboxError as error:
        assert "nested" in str(error)
    await said(session, "echo")
    await said(other, "echo")


@pytest.mark.parametrize("depth", [90, 400, 900, 940, 960, 980, 990, 1500])
async def test_deeply_nested_state_costs_nobody_else_their_session(depth: int) -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        await said(session, "nested", depth=depth)
        try:
            await session.state()
        except (SessionLost, ToolsetError):
            assert depth > 90
        assert sandbox.alive
        await said(other, "echo")


async def test_text_that_is_no_unicode_is_mended_on_its_way_out() -> None:
    async with process_sandbox() as sandbox:
        session = await opened(sandbox)
        assert await said(session, "half_a_character") == "before ? after"
        assert json.loads(await said(session, "echo", text="\ud83d")) == {"text": "\ud83d"}


async def test_tools_that_print_do_not_corrupt_the_pipe() -> None:
    async with process_sandbox() as sandbox:
        sessions = [await opened(sandbox, f"s{i}") for i in range(4)]
        shouts = await asyncio.gather(*(said(session, "shout", size=300_000) for session in sessions))
        assert shouts == ["shouted"] * 4
        assert await said(sessions[0], "echo", a="ü\n") == '{"a": "\\u00fc\\n"}'


async def test_cancelled_request_leaves_the_connection_usable() -> None:
    async with process_sandbox() as sandbox:
        session, other = await opened(sandbox), await opened(sandbox, "other")
        waiting = asyncio.create_task(session.call("sleep", {"seconds": 0.2}))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await said(other, "echo")
        assert await said(session, "echo", after="the late answer") == '{"after": "the late answer"}'
        assert sandbox.alive


async def test_session_inherits_no_descriptor_but_its_socket() -> None:
    async with process_sandbox() as sandbox:
        await opened(sandbox, "earlier")
        session = await opened(sandbox)
        found = json.loads(await said(session, "descriptors"))
        assert sorted(map(int, found)) == [0, 1, 2, 3]
        assert found["0"] == "/dev/null"
        assert found["3"].startswith("socket:")


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_sessions_go_before_their_tool_host_when_memory_runs_out(sandbox: ProcessSandbox) -> None:
    session = json.loads(await said(await opened(sandbox), "who"))["pid"]
    assert sandbox._process is not None
    assert oom_score(session) == 800 > oom_score(sandbox._process.pid) == oom_score(os.getpid())


@pytest.mark.parametrize(
    "filling",
    [{"files": 0}, {"files": 200}, {"depth": 3000}, {"files": 3, "locked": True}],
    ids=["empty", "many files", "deeper than a stack", "without permission"],
)
async def test_scratch_folder_is_gone_after_close(filling: dict[str, int]) -> None:
    async with process_sandbox() as sandbox:
        other = await opened(sandbox, "other")
        session = await opened(sandbox)
        scratch = Path(await said(session, "fill_scratch", **filling))
        assert scratch.name == session.name
        await session.close()
        await eventually(lambda: not scratch.exists())
        await said(other, "echo")
        root = scratch.parent
    assert not root.exists()


@pytest.mark.slow
async def test_limits_hold_in_a_session() -> None:
    limits = {"open_files": 20, "file_size_mb": 1, "address_space_mb": 512, "cpu_seconds": 1}
    async with process_sandbox(settings=process_settings(session_limits=limits)) as sandbox:
        session = await opened(sandbox)
        with pytest.raises(ToolsetError, match="MemoryError"):
            await session.call("allocate", {"megabytes": 1024})
        assert await said(session, "allocate", megabytes=8) == "allocated"
        with pytest.raises((ToolsetError, SessionLost), match=r"File too large|exit -25"):
            await session.call("write", {"path": "large", "size": 2 << 20})
        with pytest.raises(SessionLost, match=r"exit -(24|9)"):
            await (await opened(sandbox, "busy")).call("use_cpu", {})
        await said(await opened(sandbox, "next"), "echo")


async def test_hangup_of_the_worker_ends_the_tool_host_and_every_session() -> None:
    async with process_sandbox() as sandbox:
        pids = [int(json.loads(await said(await opened(sandbox, f"s{i}"), "who"))["pid"]) for i in range(3)]
        session = await opened(sandbox, "with a daemon")
        pids += json.loads(await said(session, "daemon"))
        pids += json.loads(await said(session, "leave_the_group"))
        process = sandbox._process
        assert process is not None and process.stdin is not None
        pids.append(process.pid)
        assert all(map(is_alive, pids))
        process.stdin.close()
        await eventually(lambda: not any(map(is_alive, pids)))
        await eventually(lambda: process.returncode == 0)


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (dummy(preload="fail"), r"(?s)RuntimeError: there is no database.*dummy_toolset"),
        (dummy(preload="exit"), "its process ended; it last said: .*last words"),
        (dummy(unknown=1), "TypeError.*unexpected keyword argument 'unknown'"),
        (type(dummy())("x", "tests.helpers.nowhere:Toolset"), "ModuleNotFoundError.*tests.helpers.nowhere"),
        (
            type(dummy())("x", "tests.helpers.dummy_toolset:Tools"),
            "tests.helpers.dummy_toolset:Tools is no toolset",
        ),
        (
            type(dummy())("x", "sandbox_images.tool_host.toolset:Toolset"),
            "TypeError.*abstract class Toolset .*abstract method '?open",
        ),
    ],
)
async def test_toolset_that_does_not_load_says_why_and_leaves_nothing(
    spec: object, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(SandboxStartError, match=f"(?s){complaint}"):
        async with process_sandbox(spec):  # type: ignore[arg-type]
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
async def test_toolset_that_does_not_come_up_in_time_is_ended(tmp_path: Path) -> None:
    with pytest.raises(SandboxStartError, match="the tool host did not come up within 1 s"):
        async with process_sandbox(dummy(preload="hang"), process_settings(start_timeout=1)):
            pass
