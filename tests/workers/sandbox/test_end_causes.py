"""Why a sandbox has ended, as its errors say: only an end from outside has an episode played again."""

import asyncio
import json
from pathlib import Path

import docker
import pytest

from tests.helpers.docker_sandboxes import docker_sandbox
from tests.helpers.engine_fixtures import dummy_image, engine
from tests.helpers.sandboxes import dummy, opened, process_sandbox, said
from workers.errors import SandboxDied, SandboxError, SandboxStartError, SessionLost, SessionTimeout
from workers.sandbox.container_end import _judge  # pyright: ignore[reportPrivateUsage]
from workers.sandbox.isolation import isolation
from workers.sandbox.seccomp import OWN_PROFILE
from workers.settings import SandboxSettings

__all__ = ["dummy_image", "engine"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_each_loss_of_a_session_says_what_caused_it() -> None:
    async with process_sandbox() as sandbox:
        for tool, arguments, cause in (
            ("exit", {"status": 3}, "session"),
            ("hang_up", {}, "session"),
            ("forge", {"frames": ["{"]}, "protocol"),
            ("not_a_result", {}, "protocol"),
        ):
            session = await opened(sandbox)
            with pytest.raises(SessionLost) as lost:
                await session.call(tool, arguments, 30)
            assert lost.value.cause == cause
            await session.close()
        session = await opened(sandbox)
        with pytest.raises(SessionTimeout) as late:
            await session.call("sleep", {"seconds": 3600}, timeout=0.2)
        assert late.value.cause == "time"
        assert not session.was_ended_from_within(late.value)  # others have been here: it is no proof
        with pytest.raises(SandboxError) as gone:
            await session.call("echo", {})
        assert gone.value.cause == "session" and "time limit" in str(gone.value)


async def test_one_session_alone_must_answer_for_its_end() -> None:
    async with process_sandbox() as sandbox:
        session = await opened(sandbox)
        with pytest.raises(SessionLost) as lost:
            await session.call("segfault", {}, 30)
        assert session.was_ended_from_within(lost.value)


@pytest.mark.docker
@pytest.mark.parametrize("how", ["kill", "remove"])
async def test_container_that_somebody_ends_was_ended_from_outside(
    dummy_image: str, engine: docker.DockerClient, how: str
) -> None:
    async with docker_sandbox(SandboxSettings(image=dummy_image)) as sandbox:
        session = await opened(sandbox)
        waiting = asyncio.create_task(session.call("sleep", {"seconds": 3600}, 120))
        await asyncio.sleep(0.3)
        if how == "kill":
            await asyncio.to_thread(engine.api.kill, sandbox.id)
        else:
            await asyncio.to_thread(engine.api.remove_container, sandbox.id, force=True)
        with pytest.raises(SandboxDied) as died:
            await waiting
        assert died.value.cause == "engine"
        assert not session.was_ended_from_within(died.value)


def _event(action: str, exit_code: int | None = None) -> dict[str, object]:
    attributes = {} if exit_code is None else {"exitCode": str(exit_code)}
    return {"Action": action, "Actor": {"Attributes": attributes}}


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([_event("start")], None),
        ([_event("start"), _event("oom")], None),
        ([_event("oom"), _event("die", 137)], "memory"),
        ([_event("die", 137)], None),  # that memory was wanting may be told later
        ([_event("kill"), _event("die", 137)], "engine"),
        ([_event("oom"), _event("die", 1)], "tool_host"),
        ([_event("die", 1)], "tool_host"),
        ([_event("die", 0)], "engine"),
        ([_event("die", 139)], "tool_host"),
    ],
)
async def test_events_tell_what_ended_a_container(events: list[dict[str, object]], cause: str | None) -> None:
    assert _judge(events) == cause


@pytest.mark.docker
async def test_container_that_lost_a_session_for_want_of_memory_takes_no_new_ones(dummy_image: str) -> None:
    """What took it may have left the container without: later sessions would starve there for ever."""
    from tests.helpers.docker_sandboxes import owner
    from workers.sandbox.pool import SandboxPool

    settings = SandboxSettings(image=dummy_image, recycle="fork", memory_mb=256, scratch_mb=16, pids=64)
    pool = SandboxPool(dummy(), settings, owner())
    try:
        hog, other = await pool.acquire("hog"), await pool.acquire("other")
        await hog.open({})
        await other.open({})
        with pytest.raises(SandboxError) as lost:
            await hog.call("hoard", {"megabytes": 400}, 120)
        assert lost.value.cause == "memory"
        await pool.release(hog)
        later = await pool.acquire("later")
        assert later.sandbox is not other.sandbox
        await said(other, "echo")
        await pool.release(other)
        await pool.release(later)
    finally:
        await pool.close()


async def test_own_seccomp_profile_is_the_default_and_another_can_be_named(tmp_path: Path) -> None:
    def options(**settings: str) -> list[str]:
        return isolation(SandboxSettings(**settings), session_users=False)["security_opt"]  # type: ignore[arg-type]

    (own,) = (option for option in options() if option.startswith("seccomp="))
    assert json.loads(own.removeprefix("seccomp=")) == json.loads(OWN_PROFILE.read_text())
    assert options(seccomp="engine") == ["no-new-privileges"]
    assert options(seccomp="unconfined") == ["no-new-privileges", "seccomp=unconfined"]
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert options(seccomp=str(profile))[1] == 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
    for text in ("{", "[]", '{"syscalls": []}'):
        profile.with_name("wrong.json").write_text(text)
        with pytest.raises(SandboxStartError, match=r"sandbox\.seccomp: .*wrong\.json"):
            options(seccomp=str(profile.with_name("wrong.json")))
    with pytest.raises(SandboxStartError, match=r"sandbox\.seccomp: nowhere"):
        options(seccomp="nowhere")


async def test_profile_allows_nothing_that_it_says_is_gone() -> None:
    rules = json.loads(OWN_PROFILE.read_text())["syscalls"]
    allowed = {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    gone = "io_setup io_submit io_uring_setup modify_ldt memfd_secret keyctl add_key bpf userfaultfd unshare "
    gone += "setns mount sched_setscheduler sched_setaffinity sched_setattr process_vm_writev perf_event_open"
    assert not allowed & set(gone.split())
