"""Connections from inside of a session reach a protocol of the worker's, as over TCP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.helpers.relay_servers import CONNECT, Echo, Watcher, http_server
from tests.helpers.sandboxes import LONG, OWNER, dummy, eventually, process_settings, said
from workers.sandbox.base import Session
from workers.sandbox.process import ProcessSandbox
from workers.sandbox.relay import Relay
from workers.sandbox.relay_frames import BODY, DATA, END, OPEN, PORTS, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[ProcessSandbox]:
    sandbox = ProcessSandbox(dummy(), process_settings(), OWNER)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


_number = 0


async def serving(sandbox: ProcessSandbox, factory: Any) -> Session:
    global _number
    _number += 1
    session = sandbox.session(f"r{_number}")
    session.serve_connections(factory)
    await session.open({})
    return session


async def run(session: Session, code: str) -> str:
    return await said(session, "attempt", code=CONNECT + code)


@pytest.mark.parametrize("way", ["connect()", "unix()"])
async def test_what_a_program_sends_is_answered(sandbox: ProcessSandbox, way: str) -> None:
    session = await serving(sandbox, Echo)
    unix = """
def unix():
    end = socket.socket(socket.AF_UNIX)
    end.connect(os.environ["KUMITE_GATEWAY_SOCKET"])
    return end
"""
    code = f"""
end = {way}
data = os.urandom(3_000_000)
import threading
threading.Thread(target=lambda: (end.sendall(data), end.shutdown(socket.SHUT_WR))).start()
got = b""
while piece := end.recv(1 << 16):
    got += piece
seen = got == data
"""
    assert await run(session, unix + code) == "True"
    await session.close()


async def test_the_address_is_known_before_tools_run_and_is_in_their_environment(
    sandbox: ProcessSandbox,
) -> None:
    session = sandbox.session("address")
    with pytest.raises(RuntimeError, match="call serve_connections first"):
        _ = session.gateway_address
    session.serve_connections(Echo)
    address = session.gateway_address
    assert address.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match="served already"):
        session.serve_connections(Echo)
    await session.open({})
    assert await said(session, "attempt", code="seen = os.environ['KUMITE_GATEWAY']") == address
    await session.close()


async def test_connections_can_only_be_served_before_the_session_is_open(sandbox: ProcessSandbox) -> None:
    session = sandbox.session("late")
    await session.open({})
    with pytest.raises(RuntimeError, match="before the session is opened"):
        session.serve_connections(Echo)
    assert await said(session, "attempt", code="seen = os.environ.get('KUMITE_GATEWAY')") == "None"
    await session.close()


async def test_half_closing_is_told_and_the_other_half_goes_on(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    asked = asyncio.create_task(
        run(session, "end = connect(); end.shutdown(socket.SHUT_WR); seen = end.recv(9), end.recv(9)")
    )
    await eventually(lambda: made and made[0].ended)
    made[0].transport.write(b"later")
    made[0].transport.write_eof()
    assert await asked == "(b'later', b'')"
    await session.close()


async def test_a_reset_from_inside_is_told_as_one(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    code = "import struct\nend = connect(); end.send(b'x'); time.sleep(0.2)\n"
    linger = "end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); end.close()"
    await run(session, code + linger)
    await eventually(lambda: made[0].lost)
    assert isinstance(made[0].lost[0], ConnectionResetError)
    await session.close()


async def test_a_reset_from_the_worker_is_seen_inside(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    asked = asyncio.create_task(run(session, "seen = connect().recv(9)"))
    await eventually(lambda: made)
    made[0].transport.abort()
    assert "ConnectionResetError" in await asked
    await eventually(lambda: made[0].lost == [None])
    await session.close()


@pytest.mark.slow
async def test_who_does_not_read_is_sent_no_more_than_a_window(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    await run(session, "kept = connect(); import builtins; builtins.kept = kept")
    await eventually(lambda: made)
    transport = made[0].transport
    for _ in range(200):
        transport.write(bytes(100_000))
    assert made[0].paused == [True]
    assert await said(session, "echo", a=1) == '{"a": 1}'
    left = transport.get_write_buffer_size()
    assert left > 10_000_000  # some megabytes are the kernel's to hold
    read = "import builtins\nseen = 0\nwhile seen < 20_000_000: seen += len(builtins.kept.recv(1 << 20))"
    assert await run(session, read) == "20000000"
    assert made[0].paused == [True, False]
    await session.close()


@pytest.mark.slow
async def test_who_is_not_read_from_can_send_no_more_than_a_window(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []

    class Deaf(Watcher):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

    session = await serving(sandbox, lambda: Deaf(made))
    code = """
end = connect(); end.settimeout(0.5); seen = 0
try:
    while True: seen += end.send(bytes(100_000))
except TimeoutError: pass
import builtins; builtins.kept = end
"""
    sent = int(await run(session, code))
    assert sent < 20_000_000 and made[0].received == 0
    made[0].transport.resume_reading()
    await eventually(lambda: made[0].received == sent)
    await session.close()


async def test_a_session_that_is_closed_has_all_its_connections_reset(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    await run(session, "import builtins; builtins.kept = [connect() for _ in range(20)]")
    await eventually(lambda: len(made) == 20)
    await session.close()
    await eventually(lambda: all(watcher.lost for watcher in made))
    assert sandbox._connection is not None
    relay = sandbox._connection.relay
    await eventually(lambda: not relay._streams)


async def test_a_session_that_dies_has_all_its_connections_end(sandbox: ProcessSandbox) -> None:
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    await run(session, "import builtins; builtins.kept = [connect() for _ in range(5)]")
    await eventually(lambda: len(made) == 5)
    with pytest.raises(Exception, match="session is gone"):
        await session.call("exit", {"status": 3})
    await eventually(lambda: all(watcher.ended or watcher.lost for watcher in made))
    await session.close()
    assert sandbox.alive


@pytest.mark.slow
async def test_ten_thousand_connections_cost_nobody_else_anything(sandbox: ProcessSandbox) -> None:
    """No more than 256 at a time are taken; the others wait, as with any server that is busy."""
    made: list[Watcher] = []

    class Closing(Watcher):
        def eof_received(self) -> bool:
            return False

    session = await serving(sandbox, lambda: Closing(made))
    neighbour = await serving(sandbox, Echo)
    code = """
import errno
kept, waiting = [], 0
for _ in range(230):
    end = socket.socket(); end.setblocking(False); kept.append(end)
    if end.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS: waiting += 1
import builtins; builtins.kept = kept
seen = len(kept)
"""
    assert await run(session, code) == "230"
    await eventually(lambda: len(made) == 230)
    churn = "for _ in range(3000):\n    connect().close()\nseen = 'churned'"
    began = time.monotonic()
    asked = asyncio.create_task(run(session, churn))
    while not asked.done():
        assert await said(neighbour, "echo", a=1) == '{"a": 1}'
        await asyncio.sleep(0.05)
    assert await asked == "churned"
    assert len(made) <= 230 + 256 + 300 * (time.monotonic() - began) + 130
    assert sandbox.alive
    await session.close()
    await neighbour.close()


@pytest.mark.slow
async def test_a_flood_on_one_stream_does_not_hold_up_tool_calls(sandbox: ProcessSandbox) -> None:
    """The calls beside it are compared with calls beside a session that only keeps a core busy."""
    made: list[Watcher] = []
    flooding = await serving(sandbox, lambda: Watcher(made))
    neighbour = await serving(sandbox, Echo)

    async def call_for(code: str) -> float:
        asked = asyncio.create_task(run(flooding, code))
        await asyncio.sleep(0.3)
        took: list[float] = []
        while not asked.done():
            began = time.monotonic()
            await said(neighbour, "echo", a=1)
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
        assert await asked == "over"
        return sorted(took)[len(took) // 2]

    until = "limit = time.monotonic() + 2.0\nwhile time.monotonic() < limit:"
    busy = await call_for(f"{until} pass\nseen = 'over'")
    flooded = await call_for(
        f"data = bytes(1 << 20)\nend = connect()\n{until} end.sendall(data)\nseen = 'over'"
    )
    assert made[0].received > 2_000_000  # many times what may be under way at once
    assert flooded < busy + 0.05, f"a call takes {flooded:.4f} s beside a flood, {busy:.4f} s without"
    await flooding.close()
    await neighbour.close()


async def test_an_http_server_of_asyncios_kind_works_on_it_unchanged(sandbox: ProcessSandbox) -> None:
    async with http_server() as factory:
        session = await serving(sandbox, factory)
        code = """
import http.client
seen = []
client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
for method, path, body in (("GET", "/0", b""), ("POST", "/3", bytes(1_000_000)), ("POST", "/200", b"x")):
    client.request(method, path, body)
    answer = client.getresponse()
    seen.append([answer.status, answer.getheader("x-size"), len(answer.read())])
seen = json.dumps(seen)
"""
        assert json.loads(await run(session, code)) == [
            [200, "0", 3],
            [200, "1000000", 30_003],
            [200, "1", 2_000_003],
        ]
        await session.close()


async def test_a_protocol_that_raises_costs_its_own_connection(sandbox: ProcessSandbox) -> None:
    class Broken(Echo):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError("a bug in a protocol")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    try:
        session = await serving(sandbox, Broken)
        assert "ConnectionResetError" in await run(session, "end = connect(); end.send(b'x'); end.recv(9)")
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert isinstance(told[0]["exception"], ZeroDivisionError)
    assert await said(session, "echo", a=1) == '{"a": 1}'
    await session.close()


async def test_when_the_sandbox_goes_its_connections_are_lost() -> None:
    sandbox = ProcessSandbox(dummy(), process_settings(), OWNER)
    await sandbox.start()
    made: list[Watcher] = []
    session = await serving(sandbox, lambda: Watcher(made))
    await run(session, "import builtins; builtins.kept = connect()")
    await eventually(lambda: made)
    async with asyncio.timeout(LONG):
        await sandbox.stop()
    await eventually(lambda: made[0].lost)
    assert isinstance(made[0].lost[0], ConnectionResetError)


async def test_what_is_written_at_once_is_one_frame() -> None:
    """Each frame costs a write to the pipe here, and another one to the connection inside."""
    sent: list[bytes] = []
    relay = Relay(sent.append)
    made: list[asyncio.BaseTransport] = []

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    relay.serve(4000, Answering)
    relay.feed(BODY.pack(OPEN, 1) + PORTS.pack(4000, 5000))
    (transport,) = made
    assert isinstance(transport, asyncio.Transport)
    transport.write(b"head")
    transport.write(b"body")
    transport.writelines([b"more", b"over"])
    await asyncio.sleep(0)
    assert sent == [frame(DATA, 1, b"headbodymoreover")]
    transport.write(b"last")
    transport.close()
    assert sent[1:] == [frame(DATA, 1, b"last"), frame(END, 1)]
