"""What the worker and its machine know must not be found inside."""

import os
import re
import socket
import uuid
from collections.abc import AsyncIterator

import docker
import pytest
import pytest_asyncio

from tests.helpers.cells import LEVELS, Cell, cell_of
from tests.helpers.sandboxes import said

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

SECRET = f"secret-{uuid.uuid4().hex}"
NAMES = ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "DOCKER_HOST_PASSWORD")
EVERYTHING_READABLE = """
found = [repr(dict(os.environ)), repr(dict(os.environb))]
for pid in [n for n in os.listdir("/proc") if n.isdigit()]:
    for name in ("environ", "cmdline", "comm", "mountinfo", "cgroup"):
        try:
            found.append(open(f"/proc/{pid}/{name}", errors="replace").read())
        except OSError:
            continue
for folder in ("/etc", "/run", "/var", "/home", "/root", "/tmp", "/opt/kumite", "/scratch", "/dev/shm"):
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path) and os.path.getsize(path) < 1 << 20:
                try:
                    found.append(open(path, errors="replace").read())
                except OSError:
                    continue
everything = chr(0).join(found)
seen = [word for word in {words!r} if word in everything]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LEVELS, ids=str)
async def cell(
    request: pytest.FixtureRequest, dummy_image: str, engine: docker.DockerClient
) -> AsyncIterator[Cell]:
    """Started by a worker whose environment is full of secrets."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setenv(name, SECRET)
        async with cell_of(request.param, dummy_image, engine) as made:
            yield made


async def test_environment_is_the_images_own(cell: Cell) -> None:
    attacker = await cell.session()
    answer = await said(attacker, "attempt", code="seen = sorted(os.environ)")
    names = set(re.findall(r"'(\w+)'", answer))
    assert names <= {"PATH", "HOME", "HOSTNAME", "LANG", "LC_CTYPE", "TMPDIR"} | {
        n for n in names if n[:6] == "PYTHON"
    }
    await cell.unharmed()


async def test_nothing_readable_holds_a_secret_of_the_worker(cell: Cell) -> None:
    attacker = await cell.session()
    words = [SECRET, *NAMES, cell.neighbour.sandbox.owner.worker_id, f"/{os.getcwd().strip('/')}/"]
    code = EVERYTHING_READABLE.replace("{words!r}", repr(words))
    assert await said(attacker, "attempt", code=code) == "[]"
    await cell.unharmed()


async def test_container_does_not_know_its_hosts_name(cell: Cell) -> None:
    attacker = await cell.session()
    seen = await said(attacker, "attempt", code="seen = [socket.gethostname(), os.uname().nodename]")
    assert seen == "['sandbox', 'sandbox']"
    assert socket.gethostname() != "sandbox"
    await cell.unharmed()
