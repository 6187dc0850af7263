"""`sandbox.allow`: programs in a sandbox reach the hosts that it names, through the worker, and no other."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from tests.helpers.dummy_episodes import ENVIRONMENT, one, task, turn
from tests.helpers.rollouts import record, rollout_worker
from tests.helpers.sandboxes import OWNER, dummy, eventually, process_settings, said
from workers.sandbox import allowed_hosts
from workers.sandbox.base import Session
from workers.sandbox.process import ProcessSandbox
from workers.settings import SandboxSettings

ASK = """
import http.client, time, urllib.request
proxy = os.environ["HTTPS_PROXY"].removeprefix("http://")
def tunnel(name):
    end = socket.create_connection(proxy.split(":"), 10); end.settimeout(30)
    end.sendall(f"CONNECT {name} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n".encode())
    return end, end.recv(1000).decode()
"""


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("https://pypi.org/simple", "is a URL; give a host and its port, 'pypi.org:443'"),
        ("http://pypi.org:8080", "is a URL; give a host and its port, 'pypi.org:8080'"),
        ("pypi.org/simple", "is a URL; give a host and its port, 'pypi.org:443'"),
        ("pypi.org", "has no port; give one, 'pypi.org:443'"),
        ("10.0.0.1:443", "is an address; give a host's name"),
        ("[::1]:443", "is an address; give a host's name"),
        ("*.pypi.org:443", "is a pattern; give each host by its whole name"),
        ("pypi.org:https", "has no port from 1 to 65535; give one, 'pypi.org:443'"),
        ("pypi.org:70000", "has no port from 1 to 65535"),
        ("pypi.org:0443", "has no port from 1 to 65535"),
        ("0x7f000001:443", "is no host's name"),
        ("pypi org:443", "is no host's name"),
        ("127.1:443", "is no host's name"),
    ],
)
def test_what_is_no_host_and_port_is_refused_with_what_would_be(entry: str, problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SandboxSettings(allow=["files.pythonhosted.org:443", entry])
    assert f"sandbox.allow: {entry!r} {problem}" in str(refused.value)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("151.101.0.223", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("fec0::1", False),
    ],
)
def test_only_addresses_of_the_public_network_are_connected_to(address: str, public: bool) -> None:
    assert allowed_hosts.is_public(address) == public


@asynccontextmanager
async def session_with(*allow: str, **settings: Any) -> AsyncIterator[Session]:
    sandbox = ProcessSandbox(dummy(), process_settings(allow=list(allow), **settings), OWNER)
    await sandbox.start()
    try:
        session = sandbox.session("a")
        await session.open({})
        yield session
        await session.close()
    finally:
        await sandbox.stop()


@asynccontextmanager
async def host() -> AsyncIterator[int]:
    """A server on this machine that tells what it was asked, then sends back what it is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def this_machine_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is something to connect to: tests reach no network."""
    monkeypatch.setattr(allowed_hosts, "is_public", lambda address: True)


@pytest.mark.usefixtures("this_machine_is_public")
async def test_a_task_can_take_from_what_is_allowed_and_gives_it_back() -> None:
    async with host() as port, session_with(f"localhost:{port}") as session:
        code = ASK + f"end, answer = tunnel('localhost:{port}')\nend.close(); seen = answer.split()[1]"
        hosts = session.allowed_hosts
        assert hosts is not None
        hosts.restrict(lambda name, port: name == "pypi.org")
        assert await said(session, "attempt", code=code) == "403"
        assert hosts.connections[0].outcome.endswith("is not permitted by the task's network policy")
        hosts.restrict(None)
        assert await said(session, "attempt", code=code) == "200"


async def test_a_name_that_no_host_can_have_is_not_put_on_record() -> None:
    async with session_with("pypi.org:443") as session:
        names = ["'a' * 254 + ':443'", "'a' * 15_000 + ':443'", "'pypi.org'", "'a b:443'", "'[::1:443'"]
        for name in names:
            code = ASK + f"end, answer = tunnel({name})\nend.close(); seen = answer.split()[1]"
            assert await said(session, "attempt", code=code) == "400"
        assert session.allowed_hosts is not None
        assert session.allowed_hosts.connections == []


@pytest.mark.slow
async def test_nothing_is_allowed_by_itself() -> None:
    async with session_with() as session:
        code = "seen = sorted(name for name in os.environ if name.lower() in ('https_proxy', 'http_proxy'))"
        assert await said(session, "attempt", code=code) == "[]" and session.allowed_hosts is None


@pytest.mark.slow
@pytest.mark.usefixtures("this_machine_is_public")
async def test_an_allowed_host_is_reached_by_its_name_and_it_is_noted() -> None:
    async with host() as port, session_with(f"localhost:{port}") as session:
        code = f"end, answer = tunnel('LOCALHOST:{port}')\nend.sendall(b'x' * 100_000)\nn = 0\n"
        code += "while n < 100_000: n += len(end.recv(1 << 20))\nend.close(); seen = answer.split()[1], n"
        assert await said(session, "attempt", code=ASK + code) == "('200', 100000)"
        assert session.allowed_hosts is not None
        [noted] = session.allowed_hosts.connections
        await eventually(lambda: noted.outcome == "done")
        assert (noted.host, noted.port, noted.address) == ("localhost", port, "127.0.0.1")
        assert noted.sent == noted.received == 100_000


@pytest.mark.usefixtures("this_machine_is_public")
async def test_a_plain_request_is_sent_on_to_the_host_that_it_names() -> None:
    async with host() as port, session_with(f"localhost:{port}") as session:
        code = f"""
end = socket.create_connection(proxy.split(":"), 10)
end.sendall(b"GET http://localhost:{port}/a?b=c HTTP/1.1\\r\\nHost: elsewhere\\r\\n"
    b"Proxy-Authorization: x\\r\\nConnection: keep-alive\\r\\nX-Own: 1\\r\\n\\r\\n")
end.shutdown(socket.SHUT_WR)
seen = b""
while data := end.recv(9999): seen += data
seen = seen.decode()
"""
        lines = (await said(session, "attempt", code=ASK + code)).split("\r\n")
        assert lines == [
            "GET /a?b=c HTTP/1.1",
            f"Host: localhost:{port}",
            "Connection: close",
            "X-Own: 1",
            "",
            "",
        ]


async def test_what_is_not_allowed_is_refused_and_noted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        other.settimeout(0.05)
        async with session_with(f"localhost:{port}", "example.com:443") as session:
            for name, why in (
                ("example.com:80", "example.com:80 is not in sandbox.allow"),
                ("example.com:22", "example.com:22 is not in sandbox.allow"),
                ("example.org:443", "example.org:443 is not in sandbox.allow"),
                (f"127.0.0.1:{port}", f"127.0.0.1:{port} is not in sandbox.allow"),
                ("169.254.169.254:80", "169.254.169.254:80 is not in sandbox.allow"),
                (f"localhost:{port}", f"localhost:{port} leads to "),
            ):
                answer = await said(session, "attempt", code=f"{ASK}seen = tunnel('{name}')[1]")
                assert "403 Forbidden" in answer and why in answer, answer
            redirected = await said(
                session,
                "attempt",
                code=ASK + "end = http.client.HTTPConnection(proxy, timeout=9)\n"
                "end.request('GET', 'http://169.254.169.254/latest'); seen = end.getresponse().status",
            )
            assert redirected == "403"
            assert session.allowed_hosts is not None
            noted = session.allowed_hosts.connections
            assert len(noted) == 7 and all(each.outcome.startswith("refused: ") for each in noted)
            assert all(each.address is None for each in noted)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", "400"),
        ("CONNECT / HTTP/1.1", "400"),
        ("CONNECT example.com HTTP/1.1", "400"),
        ("CONNECT user@example.com:443 HTTP/1.1", "400"),
        ("CONNECT example.com:99999 HTTP/1.1", "400"),
        ("GET ftp://example.com/ HTTP/1.1", "400"),
        ("GET http://[::1/ HTTP/1.1", "400"),
        ("PRI * HTTP/2.0", "505"),
        ("nonsense", "400"),
        ("\\xff\\xfe \\x00 x", "400"),
        ("GET http://example.com/" + "a" * 20_000 + " HTTP/1.1", "400"),
    ],
)
async def test_what_is_no_request_to_a_proxy_is_told_so(request_line: str, status: str) -> None:
    async with session_with("example.com:443") as session:
        code = "end = socket.create_connection(proxy.split(':'), 10)\n"
        code += f"end.sendall(b'{request_line}\\r\\n\\r\\n'); seen = end.recv(99).split()[1].decode()"
        assert await said(session, "attempt", code=ASK + code) == status


@pytest.mark.slow
@pytest.mark.usefixtures("this_machine_is_public")
async def test_an_episode_can_carry_no_more_than_its_share() -> None:
    async with host() as port, session_with(f"localhost:{port}", allow_mb=1) as session:
        code = f"end, _ = tunnel('localhost:{port}')\nseen = 0\ntry:\n"
        code += "    while True: end.sendall(bytes(10_000)); seen += len(end.recv(1 << 20))\n"
        code += f"except OSError: seen = seen < 1 << 20, tunnel('localhost:{port}')[1]"
        answer = await said(session, "attempt", code=ASK + code)
        assert "True" in answer and "sandbox.allow_mb is used up" in answer
        assert session.allowed_hosts is not None
        assert session.allowed_hosts.connections[0].outcome == "broken off: sandbox.allow_mb is used up"


@pytest.mark.usefixtures("this_machine_is_public")
async def test_nothing_is_connected_when_the_session_is_closed() -> None:
    async with host() as port, session_with(f"localhost:{port}") as session:
        await said(
            session, "attempt", code=f"{ASK}import builtins; builtins.kept = tunnel('localhost:{port}')"
        )
        assert session.allowed_hosts is not None
        await session.close()
        assert session.allowed_hosts._tasks == set()
        assert session.allowed_hosts.connections[0].outcome == "broken off: the session was closed"


@pytest.mark.slow
def test_connections_are_on_the_episodes_record() -> None:
    code = "import urllib.request; urllib.request.urlopen('https://127.0.0.1.example.org', timeout=9)"
    with rollout_worker(ENVIRONMENT, sandbox={"allow": ["example.com:443"]}) as worker:
        asked = record(one(worker, task(turn(("attempt", {"code": code})), turn(content="done"))))
    assert asked.status == "finished" and asked.connections is not None
    [noted] = json.loads(asked.connections)
    assert (noted["host"], noted["port"], noted["address"]) == ("127.0.0.1.example.org", 443, None)
    assert noted["outcome"] == "refused: 127.0.0.1.example.org:443 is not in sandbox.allow"
