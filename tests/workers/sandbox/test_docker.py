"""The `docker` backend: how a container is shut in, as the engine reports it and as it looks from inside."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import docker
import docker.errors
import pytest
import pytest_asyncio

from tests.helpers.sandboxes import dummy, eventually, opened, said
from workers.errors import SandboxDied, SandboxStartError, SessionLost, ToolsetError
from workers.sandbox import ownership
from workers.sandbox.base import Owner, ToolsetSpec
from workers.sandbox.docker import DockerSandbox
from workers.sandbox.pool import SandboxPool
from workers.settings import SandboxSettings

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


def owner() -> Owner:
    return Owner("test-run", f"test-{uuid.uuid4().hex[:8]}")


def owned(engine: docker.DockerClient, who: Owner) -> list[str]:
    """Ids of the containers of an owner, running or not."""
    found = engine.api.containers(all=True, filters={"label": f"{ownership.WORKER}={who.worker_id}"})
    return [str(container["Id"]) for container in found]


@asynccontextmanager
async def docker_sandbox(
    settings: SandboxSettings, who: Owner | None = None, spec: ToolsetSpec | None = None
) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(spec or dummy(), settings, who or owner())
    await sandbox.start()
    try:
        yield sandbox
    finally:
        await sandbox.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(dummy_image: str) -> AsyncIterator[DockerSandbox]:
    settings = SandboxSettings(image=dummy_image, memory_mb=256, pids=64, scratch_mb=8, cpus=1.5)
    async with docker_sandbox(settings) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(shared: DockerSandbox) -> AsyncIterator[DockerSandbox]:
    yield shared
    for name in list(shared.sessions):
        shared.sessions.discard(name)
        await shared.request("close", 10, session=name)


async def test_every_isolation_flag_is_on(sandbox: DockerSandbox, engine: docker.DockerClient) -> None:
    found: dict[str, Any] = engine.api.inspect_container(sandbox.id)
    host, config = found["HostConfig"], found["Config"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert not host["Binds"] and not found["Mounts"] and not host["PortBindings"] and not host["Devices"]
    assert list(host["Tmpfs"]) == ["/scratch"]
    assert {"size=8m", "mode=0700", "nosuid", "nodev"} <= set(host["Tmpfs"]["/scratch"].split(","))
    assert host["Memory"] == host["MemorySwap"] == 256 << 20
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] == 64
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"core": 0, "nofile": 4096}
    assert host["IpcMode"] == "private"
    assert host["PidMode"] == "" and host["UTSMode"] == ""
    assert host["LogConfig"]["Type"] == "none"
    assert host["AutoRemove"] is True
    assert config["User"] == "65534:65534"
    assert config["OpenStdin"] is True and config["StdinOnce"] is True and config["Tty"] is False
    assert not any(name.startswith("DOCKER") for name in config["Env"])


async def test_container_says_whose_it_is(sandbox: DockerSandbox, engine: docker.DockerClient) -> None:
    labels = engine.api.inspect_container(sandbox.id)["Config"]["Labels"]
    assert labels["kumite.run"] == "test-run"
    assert labels["kumite.worker"] == sandbox.owner.worker_id
    assert labels["kumite.node"] == ownership.node()
    assert labels["kumite.owner"] == ownership.labels(sandbox.owner)["kumite.owner"]


async def test_session_is_nobody_without_capabilities(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    who = json.loads(await said(session, "who"))
    assert (who["uid"], who["gid"], set(who["groups"]) - {65534}) == (65534, 65534, set())
    assert who["cwd"] == f"/scratch/{session.name}"
    fields = (
        line.partition(":\t") for line in (await said(session, "read", path="/proc/self/status")).splitlines()
    )
    status = {name: value for name, _, value in fields}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    with pytest.raises(ToolsetError, match="PermissionError"):
        await session.call("setuid", {})


async def test_session_sees_no_network(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    assert json.loads(await said(session, "who"))["interfaces"] == ["lo"]
    for host in ("172.17.0.1", "1.1.1.1"):
        with pytest.raises(ToolsetError, match=r"OSError: .*unreachable"):
            await session.call("connect", {"host": host, "port": 80})


async def test_session_sees_nothing_of_the_host(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    assert json.loads(await said(session, "who"))["host"] == "sandbox"
    processes = [name for name in json.loads(await said(session, "look", path="/proc")) if name.isdigit()]
    assert set(processes) == {"1", str(json.loads(await said(session, "who"))["pid"])}
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/etc/hostname.host", "/dev/sda", "/dev/vda"):
        with pytest.raises(ToolsetError, match="FileNotFoundError"):
            await session.call("read", {"path": path})


async def test_session_can_write_to_its_scratch_folder_only(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    for path in (
        "/file",
        "/tmp/file",
        "/opt/kumite/file",
        "/etc/passwd",
        "/dev/file",
        "/proc/1/oom_score_adj",
    ):
        with pytest.raises(ToolsetError, match=r"Read-only file system|Permission denied"):
            await session.call("write", {"path": path})
    assert await said(session, "write", path="file") == "written"
    assert json.loads(await said(session, "look", path="/scratch")) == [session.name]


async def test_scratch_folder_has_a_size(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    with pytest.raises(ToolsetError, match="No space left on device"):
        await session.call("write", {"path": "large", "size": 9 << 20})
    await session.close()

    next_session = await opened(sandbox)
    await eventually_(lambda: said(next_session, "look", path="/scratch"), f'["{next_session.name}"]')
    assert await said(next_session, "write", path="file", size=7 << 20) == "written"


async def eventually_(ask: Any, answer: str) -> None:
    for _ in range(500):
        if await ask() == answer:
            return
        await asyncio.sleep(0.02)
    assert await ask() == answer


async def test_session_cannot_trace_or_kill_the_tool_host(sandbox: DockerSandbox) -> None:
    session, other = await opened(sandbox), await opened(sandbox)
    neighbour = json.loads(await said(other, "who"))["pid"]
    for pid in (1, neighbour):
        assert await said(session, "trace", pid=pid) == "Operation not permitted"
        with pytest.raises(ToolsetError, match="PermissionError"):
            await session.call("look", {"path": f"/proc/{pid}/fd"})
    await said(session, "kill", pid=1)
    await said(other, "echo")
    assert sandbox.alive


async def test_fork_bomb_ends_with_its_session(sandbox: DockerSandbox) -> None:
    other = await opened(sandbox)
    bomb = await opened(sandbox)
    assert "Resource temporarily unavailable" in await said(bomb, "fork_bomb")
    with pytest.raises(SessionLost, match="Resource temporarily unavailable"):
        await opened(sandbox)
    await said(other, "echo")
    await bomb.close()
    await said(await opened(sandbox), "echo")


async def test_session_that_eats_the_memory_dies_alone(sandbox: DockerSandbox) -> None:
    other = await opened(sandbox)
    with pytest.raises(SessionLost, match="exit -9"):
        await (await opened(sandbox)).call("hoard", {"megabytes": 400})
    await said(other, "echo")
    await said(await opened(sandbox), "hoard", megabytes=50)
    assert sandbox.alive


async def test_nothing_of_a_session_is_left_in_its_container(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    await said(session, "daemon", count=5)
    await said(session, "fill_scratch", files=50, depth=1500, locked=True)
    await session.close()
    looking = await opened(sandbox)
    mine = str(json.loads(await said(looking, "who"))["pid"])

    async def left() -> str:
        processes = [p for p in json.loads(await said(looking, "look", path="/proc")) if p.isdigit()]
        return json.dumps([processes, json.loads(await said(looking, "look", path="/scratch"))])

    await eventually_(left, json.dumps([sorted(["1", mine]), [looking.name]]))


async def test_tools_that_print_do_not_reach_the_worker(sandbox: DockerSandbox) -> None:
    session = await opened(sandbox)
    assert await said(session, "shout", size=300_000) == "shouted"
    await said(session, "echo")


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
    config = DockerSandbox(spec, settings, owner())._config(engine.api)
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


@pytest.fixture
def own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that start meanwhile sweep too, on theirs."""
    name = f"test-{uuid.uuid4().hex}"
    monkeypatch.setattr(ownership, "node", lambda: name)


async def test_sweep_removes_this_nodes_containers_of_dead_owners_only(
    dummy_image: str, engine: docker.DockerClient, own_node: None
) -> None:
    mine = ownership.labels(owner())
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    pid, _, started = mine["kumite.owner"].partition(":")
    labels: dict[str, dict[str, str]] = {
        "dead": {**mine, "kumite.owner": f"{gone.pid}:12345"},
        "another process of the same id": {**mine, "kumite.owner": f"{pid}:{int(started) - 1}"},
        "alive": mine,
        "on another node": {**mine, "kumite.owner": f"{gone.pid}:12345", "kumite.node": "elsewhere"},
        "another tool's": {"kumite.node": mine["kumite.node"], "kumite.owner": f"{gone.pid}:12345"},
        "without an owner": {name: mine[name] for name in ("kumite.run", "kumite.node")},
    }
    made = {
        name: str(engine.api.create_container(dummy_image, labels=label)["Id"])
        for name, label in labels.items()
    }
    try:
        removed = await asyncio.to_thread(ownership.sweep)
        assert {made["dead"], made["another process of the same id"]} <= set(removed)
        left = {container["Id"] for container in engine.api.containers(all=True)}
        assert {name for name, container in made.items() if container in left} == {
            "alive",
            "on another node",
            "another tool's",
            "without an owner",
        }
    finally:
        for container in made.values():
            try:
                engine.api.remove_container(container, force=True)
            except docker.errors.NotFound:
                continue


async def test_sweeps_at_the_same_time_do_not_disturb_each_other(
    dummy_image: str, engine: docker.DockerClient, own_node: None
) -> None:
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    dead = {**ownership.labels(owner()), "kumite.owner": f"{gone.pid}:1"}
    made = {str(engine.api.create_container(dummy_image, labels=dead)["Id"]) for _ in range(4)}
    removed = await asyncio.gather(*(asyncio.to_thread(ownership.sweep) for _ in range(3)))
    assert made <= {container for sweep in removed for container in sweep}
