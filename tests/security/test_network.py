"""Ways out through the network: a container has none."""

import re
import socket
import uuid
from collections.abc import Iterator

import pytest

from tests.helpers.cells import Cell
from tests.helpers.sandboxes import said
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

UNREACHABLE = r"OSError: \[Errno (101\] Network is unreachable|113\] No route to host)"
ATTEMPTS = {
    "an address": ("socket.create_connection(('1.1.1.1', 80), 2)", UNREACHABLE),
    "an IPv6 address": (
        "socket.socket(socket.AF_INET6).connect(('2606:4700::1111', 80))",
        r"OSError: \[Errno (99|101|97|113)\]",
    ),
    "the metadata address": ("socket.create_connection(('169.254.169.254', 80), 2)", UNREACHABLE),
    "the engine's bridge": ("socket.create_connection(('172.17.0.1', 2375), 2)", UNREACHABLE),
    "a datagram": (
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
        UNREACHABLE,
    ),
    "DNS": ("seen = socket.getaddrinfo('example.com', 80)", "gaierror: "),
    "the Docker socket": (
        "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
        "FileNotFoundError|No such file",
    ),
    "the Docker socket elsewhere": (
        "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
        "FileNotFoundError|No such file",
    ),
    "a raw socket": (
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "PermissionError: .*Operation not permitted",
    ),
    "a packet socket": (
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)",
        "PermissionError: .*Operation not permitted",
    ),
    "an interface besides lo": ("seen = [name for _, name in socket.if_nameindex()]", r"\['lo'\]$"),
}


@pytest.fixture(scope="module")
def policy() -> Iterator[socket.socket]:
    """A server on every address of the host, as the policy's is."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(0.05)
        yield server


@pytest.mark.parametrize(("code", "seen"), ATTEMPTS.values(), ids=ATTEMPTS)
async def test_there_is_no_way_out(cell: Cell, attacker: Session, code: str, seen: str) -> None:
    answer = await said(attacker, "attempt", code=code)
    assert re.match(seen, answer), answer
    await cell.unharmed()


@pytest.mark.parametrize("address", ["127.0.0.1", "172.17.0.1", "the host's own"])
async def test_the_policy_cannot_be_reached(
    cell: Cell, attacker: Session, policy: socket.socket, address: str
) -> None:
    port = policy.getsockname()[1]
    host = socket.gethostbyname(socket.gethostname()) if address == "the host's own" else address
    answer = await said(
        attacker, "attempt", code=f"socket.create_connection(({host!r}, {port}), 2); seen = 'connected'"
    )
    assert re.search("Connection refused|unreachable|No route", answer), answer
    with pytest.raises(TimeoutError):
        policy.accept()
    await cell.unharmed()


async def test_the_hosts_abstract_sockets_are_another_namespaces(cell: Cell, attacker: Session) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        name = f"kumite-test-{uuid.uuid4().hex}"
        server.bind(f"\0{name}")
        server.listen()
        code = f"socket.socket(socket.AF_UNIX).connect('\\0{name}')"
        assert "Connection refused" in await said(attacker, "attempt", code=code)
    await cell.unharmed()
