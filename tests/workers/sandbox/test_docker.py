"""The `docker` backend: how a container comes up and goes, and what keeps it from coming up."""

import asyncio

import docker
import docker.errors
import pytest

from tests.helpers.docker_sandboxes import docker_sandbox, owned, owner
from tests.helpers.sandboxes import dummy, eventually, opened, said
from workers.errors import SandboxDied, SandboxStartError
from workers.sandbox import ownership
from workers.sandbox.base import ToolsetSpec
from workers.sandbox.docker import DockerSandbox
from workers.sandbox.images import ImageFacts
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


async def test_container_that_is_killed_is_a_dead_sandbox(
    docker_settings: SandboxSettings, engine: docker.DockerClient
) -> None:
    async with docker_sandbox(docker_settings) as sandbox:
        session = await opened(sandbox)
        waiting = asyncio.create_task(session.call("sleep", {"seconds": 3600}))
        await said(await opened(sandbox), "echo")
        engine.api.kill(sandbox.id)
        with pytest.raises(SandboxDied, match="its stream closed"):
            await waiting
        assert not sandbox.alive
        await asyncio.wait_for(sandbox.died.wait(), 10)


async def test_container_that_is_given_up_goes_by_itself(
    docker_settings: SandboxSettings, engine: docker.DockerClient
) -> None:
    """Nothing more is read of what broke the protocol, and it need not wait for the next episode to go."""
    who = owner()
    async with docker_sandbox(docker_settings, who) as sandbox:
        await said(await opened(sandbox), "daemon")
        sandbox.give_up("of a test")
        await eventually(lambda: owned(engine, who) == [])


async def test_stop_leaves_no_container(
    docker_settings: SandboxSettings, engine: docker.DockerClient
) -> None:
    who = owner()
    async with docker_sandbox(docker_settings, who) as sandbox:
        await said(await opened(sandbox), "daemon")
        assert len(owned(engine, who)) == 1
        await sandbox.stop()
        assert owned(engine, who) == []
        await sandbox.stop()


@pytest.mark.parametrize("recycle", ["fork", "episode"])
async def test_closed_pool_leaves_no_container(
    docker_settings: SandboxSettings, engine: docker.DockerClient, recycle: str
) -> None:
    who = owner()
    pool = SandboxPool(dummy(), docker_settings.model_copy(update={"recycle": recycle}), who, ahead=1)
    sessions = [await pool.acquire(name) for name in ("one", "two")]
    assert len({session.sandbox.id for session in sessions}) == (1 if recycle == "fork" else 2)
    for session in sessions:
        await session.open({})
        await said(session, "echo")
    await pool.release(sessions[0])
    await pool.close()
    assert owned(engine, who) == []


async def test_missing_image_says_which_and_what_makes_it(engine: docker.DockerClient) -> None:
    who = owner()
    with pytest.raises(SandboxStartError, match=r"no image kumite-nothing:1.*`kumite images build"):
        async with docker_sandbox(SandboxSettings(image="kumite-nothing:1"), who):
            pass
    assert owned(engine, who) == []


async def test_image_that_is_not_named_is_asked_for() -> None:
    with pytest.raises(SandboxStartError, match=r"sandbox\.image is not set"):
        async with docker_sandbox(SandboxSettings()):
            pass


async def test_unknown_runtime_is_named_and_leaves_nothing(
    docker_settings: SandboxSettings, engine: docker.DockerClient
) -> None:
    who = owner()
    with pytest.raises(SandboxStartError, match="nowhere"):
        async with docker_sandbox(docker_settings.model_copy(update={"runtime": "nowhere"}), who):
            pass
    assert owned(engine, who) == []


@pytest.mark.parametrize(
    ("runtime", "asked_for", "said", "users"),
    [
        (None, False, None, False),
        (None, True, None, True),
        ("runc", True, False, False),
        ("runsc", False, None, True),
        ("runsc", True, False, False),
    ],
)
async def test_sessions_have_users_where_config_environment_or_gvisor_want_them(
    engine: docker.DockerClient, runtime: str | None, asked_for: bool, said: bool | None, users: bool
) -> None:
    spec = ToolsetSpec("x", "x:X", session_users=asked_for)
    settings = SandboxSettings(image="x", runtime=runtime, session_users=said)
    facts = ImageFacts(has_tool_host=True, variables=(), volumes=())
    config = DockerSandbox(spec, settings, owner())._config(engine, facts, bounded_root=True)
    assert config["User"] == ("0:0" if users else "65534:65534")
    assert ("SETUID" in (config["HostConfig"].get("CapAdd") or [])) == users


async def test_toolset_that_does_not_load_says_why_and_leaves_nothing(
    docker_settings: SandboxSettings, engine: docker.DockerClient
) -> None:
    for spec, complaint in (
        (dummy(preload="fail"), "RuntimeError: there is no database"),
        (dummy(preload="exit"), "last words"),
        (ToolsetSpec("x", "tests.nowhere:Toolset"), "ModuleNotFoundError"),
    ):
        who = owner()
        with pytest.raises(SandboxStartError, match=complaint):
            async with docker_sandbox(docker_settings, who, spec):
                pass
        assert owned(engine, who) == []


async def test_toolset_that_hangs_is_ended(
    docker_settings: SandboxSettings, engine: docker.DockerClient
) -> None:
    who = owner()
    with pytest.raises(SandboxStartError, match="the tool host did not come up within 2 s"):
        settings = docker_settings.model_copy(update={"start_timeout": 2.0})
        async with docker_sandbox(settings, who, dummy(preload="hang")):
            pass
    assert owned(engine, who) == []


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "unix:///nowhere/docker.sock"])
async def test_unreachable_engine_is_a_start_error(
    host: str, monkeypatch: pytest.MonkeyPatch, docker_settings: SandboxSettings
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(SandboxStartError, match="the Docker engine could not start a container"):
        async with docker_sandbox(docker_settings):
            pass
    with pytest.raises(SandboxStartError, match="the Docker engine could not be asked for containers"):
        ownership.sweep()


@pytest.mark.parametrize("moment", ["at once", "creating", "created", "starting", "started"])
async def test_cancelled_start_leaves_no_container(
    docker_settings: SandboxSettings, engine: docker.DockerClient, moment: str
) -> None:
    who = owner()
    sandbox = DockerSandbox(dummy(preload="hang"), docker_settings, who)
    starting = asyncio.create_task(sandbox.start())
    reached = {
        "at once": lambda: True,
        "creating": lambda: True,
        "created": lambda: sandbox._container is not None,
        "starting": lambda: sandbox._transport is not None,
        "started": lambda: sandbox._connection is not None,
    }
    await asyncio.sleep(0 if moment == "at once" else 0.01)
    while not reached[moment]():
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    pending = asyncio.get_running_loop()._default_executor  # type: ignore[attr-defined]
    await eventually(lambda: pending._work_queue.empty())
    await eventually(lambda: owned(engine, who) == [])
