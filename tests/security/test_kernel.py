"""What of the kernel a session can't reach, can't change, and can't fill with what no process holds."""

import json
import re

import docker
import pytest

from tests.helpers.cells import MEMORY_MB, Cell
from tests.helpers.hostile import (
    FILL_MESSAGES,
    FILL_SEMAPHORES,
    FILL_SOCKETS,
    LEAVE_THINGS_BEHIND,
    LOOK_FOR_THINGS,
    LOWER_OOM_SCORE,
    TAKE_TERMINALS,
    TRACED_BY_ITS_CHILD,
    TRACED_BY_ITS_PARENT,
)
from tests.helpers.sandboxes import said
from workers.errors import SandboxError, SessionLost
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

_CALL = """
libc = ctypes.CDLL(None, use_errno=True)
got = libc.syscall({number}.get(os.uname().machine), *{arguments})
seen = got if got >= 0 else os.strerror(ctypes.get_errno())
"""
GONE = {
    "ptrace towards the tool host": ({"x86_64": 101, "aarch64": 117}, (0, 0, 0, 0)),
    "process_vm_writev": ({"x86_64": 311, "aarch64": 271}, (1, 0, 0, 0, 0, 0)),
    "io_setup": ({"x86_64": 206, "aarch64": 0}, (1, b"\\0" * 8)),
    "io_submit": ({"x86_64": 209, "aarch64": 2}, (0, 0, 0)),
    "io_uring_setup": ({"x86_64": 425, "aarch64": 425}, (1, b"\\0" * 120)),
    "io_uring_register": ({"x86_64": 427, "aarch64": 427}, (-1, 0, 0, 0)),
    "modify_ldt": ({"x86_64": 154, "aarch64": 283}, (0, b"\\0" * 16, 16)),
    "memfd_secret": ({"x86_64": 447, "aarch64": 447}, (0,)),
    "add_key": ({"x86_64": 248, "aarch64": 217}, (b"user", b"a", b"b", 1, -3)),
    "request_key": ({"x86_64": 249, "aarch64": 218}, (b"user", b"a", b"b", -3)),
    "keyctl": ({"x86_64": 250, "aarch64": 219}, (0, -3, 1)),
    "userfaultfd": ({"x86_64": 323, "aarch64": 282}, (1,)),
    "name_to_handle_at": ({"x86_64": 303, "aarch64": 264}, (-100, b"/", 0, 0, 0)),
    "fanotify_init": ({"x86_64": 300, "aarch64": 262}, (0, 0)),
    "sched_setscheduler": ({"x86_64": 144, "aarch64": 119}, (0, 5, b"\\0" * 8)),
    "sched_setattr": ({"x86_64": 314, "aarch64": 274}, (0, b"\\x38\\0\\0\\0\\5" + b"\\0" * 51, 0)),
    "sched_setaffinity": ({"x86_64": 203, "aarch64": 122}, (0, 8, b"\\1" + b"\\0" * 7)),
    "setpriority of the tool host": ({"x86_64": 141, "aarch64": 140}, (0, 1, 10)),
    "setpriority of its user": ({"x86_64": 141, "aarch64": 140}, (2, 0, 10)),
    "ioprio_set of the tool host": ({"x86_64": 251, "aarch64": 30}, (1, 1, 3 << 13)),
    "prlimit of the tool host": ({"x86_64": 302, "aarch64": 261}, (1, 7, 0, b"\\0" * 16)),
    "mq_open": ({"x86_64": 240, "aarch64": 180}, (b"mine", 0o102, 0o600, 0)),
    "a socket of the kernel's ciphers": ({"x86_64": 41, "aarch64": 198}, (38, 5, 0)),
    "a socket of virtual machines": ({"x86_64": 41, "aarch64": 198}, (40, 1, 0)),
    "netlink of the firewall": ({"x86_64": 41, "aarch64": 198}, (16, 3, 12)),
    "giving up its orphans": ({"x86_64": 157, "aarch64": 167}, (36, 0, 0, 0, 0)),
}
BY_THE_TOOL_HOST = {"ptrace towards the tool host", "giving up its orphans"}
"""Those that a session's own filter refuses, whatever the runtime makes of the engine's profile."""
DENIED = "Operation not permitted|Permission denied|Function not implemented"


def skip_own_kernel(cell: Cell, why: str) -> None:
    if cell.level.own_kernel:
        pytest.skip(f"gVisor: {why}")


@pytest.mark.parametrize("call", GONE)
async def test_system_call_is_gone(cell: Cell, attacker: Session, call: str) -> None:
    if call not in BY_THE_TOOL_HOST:
        skip_own_kernel(cell, "it takes no profile of the engine's; its kernel is not the host's")
    number, arguments = GONE[call]
    code = _CALL.format(number=number, arguments=repr(arguments).replace("\\\\", "\\"))
    answer = await said(attacker, "attempt", code=code)
    assert re.fullmatch(DENIED, answer), answer
    await cell.unharmed()


async def test_oom_score_can_be_lowered_by_nobody(cell: Cell, attacker: Session) -> None:
    skip_own_kernel(cell, "it has no Landlock, and the host kills all of it or none")
    for answer in json.loads(await said(attacker, "attempt", code=LOWER_OOM_SCORE)):
        assert answer == "800" or re.search("Permission denied|Operation not permitted", answer), answer
    assert await said(attacker, "attempt", code="seen = open('/proc/1/oom_score_adj').read()") == "0\n"


async def test_session_traced_by_the_tool_host_costs_itself_at_most(cell: Cell) -> None:
    attacker = await cell.session()
    try:
        answer = await said(attacker, "attempt", code=TRACED_BY_ITS_PARENT, timeout=30)
        assert re.fullmatch(DENIED, answer), answer
    except SessionLost as lost:
        assert lost.cause == "session"
    await cell.pool.release(attacker)
    await cell.unharmed()


async def test_tracer_left_behind_keeps_no_session_from_its_end(cell: Cell) -> None:
    attacker = await cell.session()
    await said(attacker, "attempt", code=TRACED_BY_ITS_CHILD)
    await cell.pool.release(attacker)
    await cell.unharmed()


async def test_semaphores_and_messages_are_bounded(cell: Cell) -> None:
    """They are memory of the kernel that no process holds, so that no kill would set it free."""
    skip_own_kernel(cell, "it bounds them by itself")
    attacker = await cell.session()
    assert int(await said(attacker, "attempt", code=FILL_SEMAPHORES)) <= 4096
    assert int(await said(attacker, "attempt", code=FILL_MESSAGES, timeout=120)) <= 16 * 8192
    await cell.unharmed()
    await cell.pool.release(attacker)
    await said(await cell.session(), "hoard", megabytes=30)


async def test_nothing_that_a_session_left_is_there_for_the_next(cell: Cell) -> None:
    skip_own_kernel(cell, "it does not list System V objects")
    if cell.level.shared:
        pytest.skip("of one user among many, it can't be told whose they are while there is a session")
    attacker = await cell.session()
    left = await said(attacker, "attempt", code=LEAVE_THINGS_BEHIND)
    assert left == "left"
    await cell.pool.release(attacker)
    await cell.unharmed()
    after = await cell.session()
    for _ in range(200):
        found = await said(after, "attempt", code=LOOK_FOR_THINGS)
        if found == "[]":
            break
        await said(after, "sleep", seconds=0.05)
    assert found == "[]", found
    await cell.pool.release(after)


async def test_buffers_of_sockets_cost_who_fills_them(cell: Cell) -> None:
    """No process holds them either, so the kernel may take a neighbour for them, to be played again.

    Who has filled them is found by what the kernel tells of each user's sockets. Without users of their own,
    it can't be told.
    """
    cell.assert_limited(cell.neighbour)
    attacker = await cell.session()
    sizes = "a, b = socket.socketpair(); a.setsockopt(1, 7, 1 << 23); seen = a.getsockopt(1, 7)"
    assert int(await said(attacker, "attempt", code=sizes)) <= 425_984
    try:
        await said(attacker, "attempt", code=FILL_SOCKETS, timeout=240)
        ended = None
    except SandboxError as lost:
        ended = lost.cause
    assert ended in ("memory", None, "session") if not cell.level.users else ended == "memory"
    await cell.pool.release(attacker)
    try:
        await cell.unharmed()
    except SandboxError as lost:
        assert cell.level.recycle == "fork" and (lost.cause == "engine" or cell.level.shared)
        await cell.pool.release(cell.neighbour)
        await cell.move_in()
    after = await cell.session()
    await said(after, "hoard", megabytes=30)
    await cell.pool.release(after)


async def test_terminals_are_bounded(cell: Cell) -> None:
    """The machine has a few thousand, for all containers together."""
    skip_own_kernel(cell, "its terminals are its own")
    attacker = await cell.session()
    if cell.level.shared:  # of one user among many, it can't be told whose they are
        pytest.skip("bounded by the process and file limits only")
    with pytest.raises(SessionLost, match="pseudoterminals"):
        await said(attacker, "attempt", code=TAKE_TERMINALS, timeout=60)
    await cell.unharmed()
    await cell.pool.release(attacker)


async def test_end_by_memory_of_a_session_that_is_alone_is_told_as_such(
    cell: Cell, engine: docker.DockerClient
) -> None:
    if cell.level.recycle == "fork":
        pytest.skip("one session to a container")
    cell.assert_limited(cell.neighbour)
    attacker = await cell.session()
    with pytest.raises(SandboxError) as lost:
        await attacker.call("hoard", {"megabytes": 2 * MEMORY_MB}, 120)
    assert lost.value.cause == "memory"
    assert attacker.was_ended_from_within(lost.value)
    await cell.pool.release(attacker)
