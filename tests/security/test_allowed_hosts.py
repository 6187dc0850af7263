"""What a session can do with the proxy to allowed hosts: reach those by name, and nothing else."""

import socket
from collections.abc import AsyncIterator, Iterator

import docker
import pytest
import pytest_asyncio

from tests.helpers.cells import LEVELS, Cell, Level, cell_of
from tests.helpers.sandboxes import said
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    """A server of the host that is on the list by a name which leads to the host itself."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(0.05)
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LEVELS, ids=str)
async def cell(
    request: pytest.FixtureRequest, dummy_image: str, engine: docker.DockerClient, server: socket.socket
) -> AsyncIterator[Cell]:
    level: Level = request.param
    allow = [f"localhost:{server.getsockname()[1]}", "example.com:443"]
    async with cell_of(level, dummy_image, engine, allow) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacker(cell: Cell) -> Session:
    return await cell.session()


REFUSED = {
    "a name that leads to the host itself": ("localhost:{port}", "not a public address"),
    "the same by its address": ("127.0.0.1:{port}", "not in sandbox.allow"),
    "another port of an allowed host": ("example.com:80", "not in sandbox.allow"),
    "its SSH": ("example.com:22", "not in sandbox.allow"),
    "another host": ("example.org:443", "not in sandbox.allow"),
    "a host below it": ("www.example.com:443", "not in sandbox.allow"),
    "the metadata address": ("169.254.169.254:80", "not in sandbox.allow"),
    "an address of IPv6": ("[::1]:{port}", "not in sandbox.allow"),
    "a name with a user before it": ("example.com@localhost:{port}", "CONNECT takes host:port"),
    "the engine's bridge": ("172.17.0.1:2375", "not in sandbox.allow"),
}


@pytest.mark.parametrize(("name", "why"), REFUSED.values(), ids=REFUSED)
async def test_the_proxy_connects_to_nothing_else(
    cell: Cell, attacker: Session, server: socket.socket, name: str, why: str
) -> None:
    name = name.format(port=server.getsockname()[1])
    code = "proxy = os.environ['HTTPS_PROXY'].removeprefix('http://').split(':')\n"
    code += (
        f"end = socket.create_connection(proxy, 10); end.sendall(b'CONNECT {name} HTTP/1.1\\r\\n\\r\\n')\n"
    )
    code += "seen = b''\nwhile data := end.recv(999): seen += data"
    answer = await said(attacker, "attempt", code=code)
    assert why in answer, answer
    with pytest.raises(TimeoutError):
        server.accept()
    await cell.unharmed()


async def test_a_redirect_leads_to_nothing_that_is_not_allowed(
    cell: Cell, attacker: Session, server: socket.socket
) -> None:
    """A client that follows one asks the proxy again, which looks at where it leads as at any other."""
    port = server.getsockname()[1]
    for url in (
        "http://169.254.169.254/latest/meta-data/",
        f"http://localhost:{port}/",
        "http://example.com/",
    ):
        code = "import urllib.request, urllib.error\n"
        code += f"try: seen = urllib.request.urlopen({url!r}, timeout=20).status\n"
        code += "except urllib.error.HTTPError as error: seen = error.code"
        no_proxy = "os.environ['no_proxy'] = os.environ['NO_PROXY'] = ''\n"
        assert await said(attacker, "attempt", code=no_proxy + code) == "403"
    with pytest.raises(TimeoutError):
        server.accept()
    assert attacker.allowed_hosts is not None
    assert all(each.address is None for each in attacker.allowed_hosts.connections)
    await cell.unharmed()
