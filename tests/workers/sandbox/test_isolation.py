"""How a container is shut in, as the engine reports it and as it looks from inside."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import docker
import docker.errors
import pytest
import pytest_asyncio

from tests.helpers.docker_sandboxes import docker_sandbox
from tests.helpers.sandboxes import opened, said
from workers.errors import SessionLost, ToolsetError
from workers.sandbox import ownership
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


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
    plain, profile = host["SecurityOpt"]
    assert plain == "no-new-privileges"
    assert json.loads(profile.removeprefix("seccomp="))["defaultAction"] == "SCMP_ACT_ERRNO"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert not host["Binds"] and not found["Mounts"] and not host["PortBindings"] and not host["Devices"]
    tmpfs = {folder: set(options.split(",")) for folder, options in host["Tmpfs"].items()}
    assert tmpfs == {
        "/scratch": {"size=8m", "mode=0700", "nosuid", "nodev", "nr_inodes=2048", "uid=65534", "gid=65534"},
        "/dev/shm": {"size=64m", "mode=1777", "nosuid", "nodev", "noexec", "nr_inodes=16384"},
    }
    assert host["Memory"] == host["MemorySwap"] == 256 << 20
    assert host["NanoCpus"] == 1_500_000_000
    assert host["PidsLimit"] == 64
    assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {
        "core": 0,
        "nofile": 4096,
        "sigpending": 4096,
        "msgqueue": 819_200,
    }
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
