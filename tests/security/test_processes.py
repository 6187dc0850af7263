"""Other processes: the tool host's, other sessions', and those that are to outlive their own session."""

import asyncio
import json
import re

import pytest

from tests.helpers.cells import Cell
from tests.helpers.sandboxes import eventually, said
from workers.errors import SessionLost
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

READ_MEMORY = """
local, remote = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
libc = ctypes.CDLL(None, use_errno=True)
mine, its = Vector(ctypes.addressof(local), 8), Vector(ctypes.addressof(remote), 8)
got = libc.process_vm_readv({pid}, ctypes.byref(mine), 1, ctypes.byref(its), 1, 0)
seen = got if got >= 0 else os.strerror(ctypes.get_errno())
"""
DENIED = "Operation not permitted|Permission denied|Function not implemented|No such process"

LIE_IN_WAIT = """
me = newest = os.getpid()
newcomers, looks, opened = 0, 0, []
while newcomers < {newcomers}:
    looks += 1
    if looks % 100 == 0:
        newest = max(newest, *(int(name) for name in os.listdir("/proc") if name.isdigit()))
    for pid in range(newest, newest + 4):
        try:
            pid == me or opened.append(os.listdir(f"/proc/{{pid}}/fd"))
        except FileNotFoundError:
            continue
        except OSError:
            pass
        if pid > newest:
            newest, newcomers = pid, newcomers + 1
seen = opened[:1]
"""
"""Looks at each new process from its first moment on, for what it has open."""


@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGSEGV", "SIGHUP"])
async def test_signals_do_nothing_to_the_tool_host(cell: Cell, attacker: Session, number: str) -> None:
    answer = await said(attacker, "attempt", code=f"os.kill(1, signal.{number})")
    assert answer == "done" if not cell.level.users else re.match("PermissionError", answer)
    await cell.unharmed()
    await said(attacker, "echo")


@pytest.mark.parametrize("target", ["tool host", "neighbour"])
async def test_neither_tool_host_nor_neighbour_can_be_traced_or_read(
    cell: Cell, attacker: Session, target: str
) -> None:
    pid = 1 if target == "tool host" else cell.neighbour_pid
    if cell.level.recycle == "episode" and target == "neighbour":
        pid = 100_000  # it is in another container: no number leads to it
    assert re.match(DENIED, await said(attacker, "trace", pid=pid))
    assert re.match(DENIED, await said(attacker, "attempt", code=READ_MEMORY.format(pid=pid)))
    for file in ("mem", "environ", "maps", "oom_score_adj"):
        answer = await said(attacker, "attempt", code=f"seen = open('/proc/{pid}/{file}', 'r+').read(9)")
        assert re.match("PermissionError|FileNotFoundError|OSError", answer), answer
    await cell.unharmed()


async def test_newcomer_cannot_be_looked_into_at_any_moment(cell: Cell) -> None:
    """The fork of a tool host has the worker's pipe open until it has closed it."""
    if cell.level.recycle == "episode" or cell.level.own_kernel:
        pytest.skip("there are no newcomers, or descriptors are told of and not handed out")
    attacker = await cell.session()
    attack = asyncio.create_task(
        said(attacker, "attempt", timeout=3600, code=LIE_IN_WAIT.format(newcomers=200))
    )
    while not attack.done():
        await cell.pool.release(await cell.session())
    assert await attack == "[]"
    await cell.unharmed()
    await cell.pool.release(attacker)


async def test_another_session_can_be_killed_only_where_they_share_a_user(cell: Cell) -> None:
    attacker, victim = await cell.session(), await cell.session()
    pid = json.loads(await said(victim, "who"))["pid"]
    if cell.level.recycle == "episode":
        mine = json.loads(await said(attacker, "who"))["pid"]
        everyone = "seen = [n for n in os.listdir('/proc') if n.isdigit()]"
        assert set(re.findall(r"\d+", await said(attacker, "attempt", code=everyone))) == {"1", str(mine)}
        await said(victim, "echo")
    elif cell.level.users:
        answer = await said(attacker, "attempt", code=f"os.kill({pid}, signal.SIGKILL)")
        assert re.match("PermissionError", answer), answer
        await said(victim, "echo")
    else:
        waiting = asyncio.create_task(victim.call("sleep", {"seconds": 60}))
        await said(cell.neighbour, "echo")
        assert await said(attacker, "attempt", code=f"os.kill({pid}, signal.SIGKILL)") == "done"
        with pytest.raises(SessionLost, match=r"its process ended by itself \(exit -9\)"):
            await waiting
    for session in (attacker, victim):
        await cell.pool.release(session)
    await cell.unharmed()


@pytest.mark.parametrize("tool", ["daemon", "leave_the_group", "shed_orphans"])
async def test_daemon_is_gone_when_its_session_is_closed(cell: Cell, tool: str) -> None:
    attacker = await cell.session()
    container = attacker.sandbox.id
    await said(attacker, tool)
    before = cell.engine.api.top(container)["Processes"]
    assert len(before) > 2 or tool == "shed_orphans"
    await cell.pool.release(attacker)
    if cell.level.recycle == "fork":
        await eventually(lambda: len(cell.engine.api.top(container)["Processes"]) <= 3)
    await cell.unharmed()


async def test_kill_of_everything_ends_at_what_one_may_kill(cell: Cell) -> None:
    """Shared by one user, all sessions of the container go; the tool host stays and serves new ones."""
    attacker, victim = await cell.session(), await cell.session()
    waiting = asyncio.create_task(victim.call("sleep", {"seconds": 60 if cell.level.shared else 0.5}))
    await said(attacker, "echo")
    answer = await said(attacker, "attempt", code="os.kill(-1, signal.SIGKILL)")
    if cell.level.shared:
        assert answer == "done"
        with pytest.raises(SessionLost, match="exit -9"):
            await waiting
        assert cell.neighbour.sandbox.alive
        with pytest.raises(SessionLost):
            await said(cell.neighbour, "echo")
        await cell.pool.release(cell.neighbour)
        await cell.move_in()
    else:
        assert (await waiting).content == "slept"
    for session in (attacker, victim):
        await cell.pool.release(session)
    await cell.unharmed()
