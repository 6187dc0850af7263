"""A sandbox in any Linux image: the tool host and its Python come from a volume, read-only."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import docker
import pytest

from sandbox_images.base_image import base_image
from sandbox_images.bundle_volume import ensure_volume
from tests.helpers.other_images import built, other_architecture, static_busybox
from tests.helpers.relay_servers import Echo
from tests.helpers.sandboxes import OWNER
from tests.helpers.sandboxes import said as told
from workers.errors import SandboxStartError
from workers.sandbox.base import Session, ToolsetSpec
from workers.sandbox.docker import DockerSandbox
from workers.settings import SandboxSettings

pytestmark = pytest.mark.docker

SHELL = ToolsetSpec("shell", "sandbox_images.shell.toolset:ShellToolset", {})
KINDS = {
    "busybox alone": "FROM scratch\nCOPY busybox /bin/busybox\nENV LD_LIBRARY_PATH=/nowhere\n",
    "nothing at all": "FROM scratch\nCOPY busybox /data/file\n",
    "Debian with Python": "FROM {base}\nENV PYTHONHOME=/nowhere PYTHONPATH=/nowhere\nUSER 7:7\nVOLUME /data\n"
    'ENTRYPOINT ["/bin/false"]\nHEALTHCHECK CMD false\n',
}


async def said(session: Session, tool: str, **arguments: Any) -> str:
    """What a tool of the shell printed, without the exit code below it."""
    return (await told(session, tool, **arguments)).removesuffix("[exit code 0]")


@pytest.fixture(scope="module")
def tool_host(engine: docker.DockerClient) -> str:
    return ensure_volume()


@pytest.fixture(scope="module", params=KINDS)
def image(request: pytest.FixtureRequest, engine: docker.DockerClient) -> Iterator[str]:
    base = base_image(None, "x86_64", lambda _: None)
    with built(engine, KINDS[request.param].format(base=base), {"busybox": static_busybox()}) as tag:
        yield tag


@asynccontextmanager
async def session_in(
    image: str, tool_host: str | None, spec: ToolsetSpec = SHELL, **settings: Any
) -> AsyncIterator[Session]:
    limits = {"memory_mb": 512, "pids": 64, "scratch_mb": 16, **settings}
    sandbox = DockerSandbox(spec, SandboxSettings(image=image, tool_host=tool_host, **limits), OWNER)
    await sandbox.start()
    try:
        session = sandbox.session("s")
        session.serve_connections(Echo)
        await session.open({"files": [{"path": "greeting.txt", "text": "hello\n"}]})
        yield session
    finally:
        await sandbox.stop()


async def test_the_shell_works_in_any_image(image: str, tool_host: str) -> None:
    async with session_in(image, tool_host) as session:
        assert await said(session, "bash", command="read line < greeting.txt; echo $line") == "hello\n"
        assert "3.11" in await said(session, "python", code="import sys, json, ssl; print(sys.version)")
        code = "import os, socket\nend = socket.create_connection(('127.0.0.1', "
        code += "int(os.environ['KUMITE_GATEWAY'].rsplit(':', 1)[1])))\nend.send(b'x'); print(end.recv(9))"
        assert await said(session, "python", code=code) == "b'x'\n"
        answer = await session.call("bash", {"command": "echo x > /opt/kumite/bin/python3.11"})
        assert "Permission denied" in answer.text or "Read-only" in answer.text


async def test_sessions_may_have_users_of_their_own_there(
    engine: docker.DockerClient, tool_host: str
) -> None:
    with built(engine, KINDS["nothing at all"], {"busybox": b"x"}) as tag:
        async with session_in(tag, tool_host, session_users=True) as session:
            code = "import os; print(os.getuid() > 65536, os.environ['KUMITE_GATEWAY_SOCKET'][:9])"
            assert await said(session, "python", code=code) == "True /scratch/\n"


async def test_its_own_programs_run_with_their_own_libraries(
    engine: docker.DockerClient, tool_host: str
) -> None:
    base = base_image(None, "x86_64", lambda _: None)
    dockerfile = f"FROM {base}\nENV LD_BIND_NOW=1\n"
    with built(engine, dockerfile) as tag:
        async with session_in(tag, tool_host) as session:
            command = (
                "python3 -c 'import sys; print(sys.prefix)'; echo $LD_BIND_NOW; cat /etc/os-release | head -1"
            )
            assert "/usr" in (answer := await said(session, "bash", command=command))
            assert "Debian" in answer


async def test_busyboxs_programs_run_in_an_image_of_nothing_else(
    engine: docker.DockerClient, tool_host: str
) -> None:
    with built(engine, KINDS["busybox alone"], {"busybox": static_busybox()}) as tag:
        async with session_in(tag, tool_host) as session:
            assert await said(session, "bash", command="/bin/busybox wc -l < greeting.txt") == "1\n"


async def test_an_agent_may_be_root_of_its_container_and_of_nothing_more(
    engine: docker.DockerClient, tool_host: str
) -> None:
    base = base_image(None, "x86_64", lambda _: None)
    with built(engine, f"FROM {base}\n") as tag:
        async with session_in(tag, tool_host, user="root", root_mb=64) as session:
            command = "id -u; touch /root/mine && chown 7:7 /root/mine && stat -c %u /root/mine"
            assert await said(session, "bash", command=command) == "0\n7\n"
            found: dict[str, Any] = engine.api.inspect_container(session.sandbox.id)["HostConfig"]
            assert found["CapDrop"] == ["ALL"]
            assert "no-new-privileges" in found["SecurityOpt"]
            assert found["NetworkMode"] == "none"
            for attempt in (
                "mount -t tmpfs none /mnt",
                "unshare -r true",
                "mknod /tmp/disk b 8 0",
                "chroot / true",
                "hostname other",
                "date -s 2001-01-01",
                "mount -o remount,rw /opt/kumite",
                "echo x > /opt/kumite/bin/python3.11",
                "echo 1 > /proc/sys/kernel/panic",
                "cat /proc/1/environ > /dev/null",
                "cat /proc/1/maps > /dev/null",
                "for file in /proc/1/fd/*; do readlink $file && break; done",
                "for file in /proc/1/fd/*; do echo x > $file && break; done",
                "dd if=/dev/zero of=/root/full bs=1M count=100 status=none",
            ):
                answer = await said(session, "bash", command=f"{attempt}; echo status $?")
                assert "status 0" not in answer, f"{attempt}: {answer}"
            assert await said(session, "bash", command="kill -9 1; echo $?") == "0\n"
            assert await said(session, "bash", command="echo still here") == "still here\n"


async def test_volumes_that_an_image_declares_are_bounded(
    engine: docker.DockerClient, tool_host: str
) -> None:
    base = base_image(None, "x86_64", lambda _: None)
    with built(engine, f"FROM {base}\nVOLUME /data\n") as tag:
        async with session_in(tag, tool_host) as session:
            command = "for i in 1 2 3; do dd if=/dev/zero of=/data/$i bs=1M count=9 2>&1; done"
            assert "No space left" in await said(session, "bash", command=command)
            found: dict[str, Any] = engine.api.inspect_container(session.sandbox.id)
            assert [mount["Type"] for mount in found["Mounts"] if mount["Destination"] == "/data"] == []
            assert "size=16m" in found["HostConfig"]["Tmpfs"]["/data"]


@pytest.mark.parametrize(
    ("image", "tool_host", "error"),
    [
        ("kumite-test-nowhere:1", None, "there is no image kumite-test-nowhere:1 on this node"),
        ("{plain}", None, "has no tool host, and sandbox.tool_host names no volume"),
        ("{plain}", "no-such-volume", "sandbox.tool_host: this node's engine has no volume no-such-volume"),
        ("{other}", None, "is for arm64, and this node's engine runs amd64"),
    ],
)
async def test_an_image_that_cannot_be_used_is_told_why(
    engine: docker.DockerClient, image: str, tool_host: str | None, error: str
) -> None:
    with (
        built(engine, "FROM scratch\nCOPY file /file\n", {"file": b"x"}) as plain,
        other_architecture(engine, plain) as other,
    ):
        image = image.format(plain=plain, other=other)
        sandbox = DockerSandbox(SHELL, SandboxSettings(image=image, tool_host=tool_host), OWNER)
        with pytest.raises(SandboxStartError, match=error):
            await sandbox.start()
