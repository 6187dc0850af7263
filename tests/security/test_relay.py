"""What a session can do with the one address that it is given to connect to: reach it, and nothing else."""

import asyncio
import re
import time

import pytest

from tests.helpers.cells import Cell
from tests.helpers.relay_servers import CONNECT, Echo, Watcher
from tests.helpers.sandboxes import eventually, said
from tests.security.test_network import ATTEMPTS
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

KEEP = "import builtins; builtins.kept = "


async def run(session: Session, code: str) -> str:
    return await said(session, "attempt", code=CONNECT + code)


async def test_the_gateway_is_reached_and_nothing_else_is(cell: Cell) -> None:
    session = await cell.session(Echo)
    for way in ("connect()", "socket.socket(socket.AF_UNIX)"):
        code = (
            f"end = {way}\nif end.family == socket.AF_UNIX: end.connect(os.environ['KUMITE_GATEWAY_SOCKET'])"
        )
        assert await run(session, f"{code}\nend.send(b'hello'); seen = end.recv(9)") == "b'hello'"
    for code, seen in ATTEMPTS.values():
        answer = await said(session, "attempt", code=code)
        assert re.match(seen, answer), answer
    ports = "seen = []\nfor port in (22, 2375, 6379, 8000, 8265, 60999, 65001):\n"
    ports += "    try: socket.create_connection(('127.0.0.1', port), 2); seen.append(port)\n"
    ports += "    except ConnectionRefusedError: pass"
    assert await said(session, "attempt", code=ports) == "[]"
    await cell.pool.release(session)
    await cell.unharmed()


async def test_a_neighbours_gateway_can_be_reached_over_the_loopback_they_share_and_no_other(
    cell: Cell,
) -> None:
    """So each session has a key of its own there; its Unix socket is its user's alone."""
    made: list[Watcher] = []
    theirs = await cell.session(lambda: Watcher(made))
    mine = await cell.session(Echo)
    address = ("127.0.0.1", int(theirs.gateway_address.rsplit(":", 1)[1]))
    path = await said(theirs, "attempt", code="seen = os.environ['KUMITE_GATEWAY_SOCKET']")
    if cell.level.recycle == "episode":  # where each has its own loopback, the address is its own as well
        await run(mine, f"end = socket.create_connection({address!r}, 2); end.send(b'x'); end.recv(1)")
        assert made == []
    else:
        await run(mine, f"{KEEP}socket.create_connection({address!r}, 2)")
        await eventually(lambda: len(made) == 1)
        answer = await run(mine, f"socket.socket(socket.AF_UNIX).connect({path!r}); seen = 'connected'")
        assert ("PermissionError" in answer) == cell.level.users, answer
    await cell.pool.release(mine)
    await cell.pool.release(theirs)
    await cell.unharmed()


async def test_a_flood_leaves_the_neighbour_its_calls(cell: Cell) -> None:
    made: list[Watcher] = []
    session = await cell.session(lambda: Watcher(made))
    code = "data = bytes(1 << 20); ends = [connect() for _ in range(8)]\nimport threading\n"
    code += "limit = time.monotonic() + 3\ndef flood(end):\n"
    code += "    while time.monotonic() < limit: end.sendall(data)\n"
    code += "flooding = [threading.Thread(target=flood, args=(end,)) for end in ends]\n"
    code += "[each.start() for each in flooding]; [each.join() for each in flooding]; seen = 'over'"
    asked = asyncio.create_task(run(session, code))
    took: list[float] = []
    while not asked.done():
        began = time.monotonic()
        await cell.unharmed()
        took.append(time.monotonic() - began)
    assert await asked == "over"
    assert sum(watcher.received for watcher in made) > 10_000_000
    assert len(took) >= 5
    await cell.pool.release(session)


async def test_answers_that_are_never_read_stay_within_their_window(cell: Cell) -> None:
    made: list[Watcher] = []
    session = await cell.session(lambda: Watcher(made))
    await run(session, f"{KEEP}[connect() for _ in range(60)]")
    await eventually(lambda: len(made) == 60)
    for watcher in made:
        watcher.transport.write(bytes(3_000_000))
    await asyncio.sleep(0.5)
    assert all(watcher.paused == [True] for watcher in made)
    assert await said(session, "echo", a=1) == '{"a": 1}'
    await cell.unharmed()
    await cell.pool.release(session)
    await eventually(lambda: all(watcher.lost for watcher in made))


async def test_ten_thousand_connections_are_taken_a_few_at_a_time(cell: Cell) -> None:
    made: list[Watcher] = []

    class Closing(Watcher):
        def eof_received(self) -> bool:
            return False

    session = await cell.session(lambda: Closing(made))
    code = """
seen, limit = 0, time.monotonic() + 5
for _ in range(10_000):
    if time.monotonic() > limit: break
    connect().close(); seen += 1
"""
    began = time.monotonic()
    opened = int(await run(session, code))
    took = time.monotonic() - began
    assert len(made) <= opened and len(made) <= 256 + 256 * took + 16
    await cell.unharmed()
    await cell.pool.release(session)


async def test_ports_that_a_session_has_taken_cost_the_next_ones_nothing(cell: Cell) -> None:
    session = await cell.session(Echo)
    code = """
import builtins
kept = builtins.kept = []
for other in range(port + 1, port + 101):
    kept.append(socket.socket()); kept[-1].bind(("127.0.0.1", other)); kept[-1].listen()
seen = len(kept)
"""
    assert await run(session, code) == "100"
    others = [await cell.session(Echo) for _ in range(3)]
    for other in others:
        assert await run(other, "end = connect(); end.send(b'hello'); seen = end.recv(9)") == "b'hello'"
        told = await said(other, "attempt", code="seen = os.environ['KUMITE_GATEWAY']")
        assert told == other.gateway_address
        await cell.pool.release(other)
    await cell.unharmed()
    await cell.pool.release(session)


async def test_connections_that_are_kept_are_bounded(cell: Cell) -> None:
    made: list[Watcher] = []
    session = await cell.session(lambda: Watcher(made))
    code = """
kept, children = [], []
for _ in range(3):
    if (pid := os.fork()) == 0:
        try:
            while True: kept.append(connect())
        except OSError: time.sleep(60); os._exit(0)
    children.append(pid)
time.sleep(3); seen = "kept"
"""
    assert await run(session, code) == "kept"
    await eventually(lambda: len(made) > 100)
    await asyncio.sleep(0.2)
    assert len(made) <= 256
    await cell.unharmed()
    await cell.pool.release(session)
    await eventually(lambda: all(watcher.lost for watcher in made))


async def test_a_connection_that_is_left_open_is_reset_when_its_session_is_closed(cell: Cell) -> None:
    made: list[Watcher] = []
    session = await cell.session(lambda: Watcher(made))
    code = "end = connect(); end.send(b'x')\n"
    code += "if os.fork() == 0:\n    os.setsid()\n    time.sleep(3600)\nseen = 'left'"
    assert await run(session, code) == "left"
    await eventually(lambda: made and made[0].received)
    await cell.pool.release(session)
    await eventually(lambda: made[0].lost)
    await cell.unharmed()
