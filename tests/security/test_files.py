"""Files of the host, of the image, of the tool host and of other sessions."""

import asyncio
import re
import uuid
from pathlib import Path

import pytest

from tests.helpers.cells import Cell
from tests.helpers.sandboxes import LONG, said
from workers.errors import SessionLost
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

DENIED = "PermissionError"
READ_ONLY = r"OSError: \[Errno 30\] Read-only file system|PermissionError"
ABSENT = "FileNotFoundError|NotADirectoryError|PermissionError"
ATTEMPTS = {
    "read the memory of the tool host": ("seen = open('/proc/1/mem', 'rb').read(1)", DENIED),
    "read the environment of the tool host": ("seen = open('/proc/1/environ').read()", DENIED),
    "list the descriptors of the tool host": ("seen = os.listdir('/proc/1/fd')", DENIED),
    "reopen the worker's pipe": ("open('/proc/1/fd/1', 'wb').write(b'x')", DENIED),
    "go through the tool host's root": ("seen = os.listdir('/proc/1/root/')", DENIED),
    "read kernel memory": ("seen = open('/proc/kcore', 'rb').read(8)", r"PermissionError|FileNotFound|b''$"),
    "read the kernel's log": ("seen = open('/dev/kmsg').read(1)", ABSENT),
    "read a disk of the host": ("seen = open('/dev/vda', 'rb').read(1)", ABSENT),
    "reopen any descriptor of the tool host": (
        """seen = []
for number in os.listdir("/proc/1/fd"):
    try:
        os.open(f"/proc/1/fd/{number}", os.O_WRONLY)
        seen.append(os.readlink(f"/proc/1/fd/{number}"))
    except OSError:
        continue""",
        DENIED,
    ),
    "make a disk of the host": (
        "os.mknod('disk', 0o60600, os.makedev(8, 0)); seen = open('disk', 'rb').read(1)",
        DENIED,
    ),
    "change the image's users": ("open('/etc/passwd', 'a').write('x')", READ_ONLY),
    "change the tool host's code": (
        "open('/opt/kumite/sandbox_images/tool_host/server.py', 'a').write('x')",
        READ_ONLY,
    ),
    "write to the root": ("open('/file', 'w')", READ_ONLY),
    "write to /tmp": ("open('/tmp/file', 'w')", READ_ONLY),
    "write to /dev": ("open('/dev/file', 'w')", DENIED),
    "set a kernel parameter": ("open('/proc/sys/kernel/core_pattern', 'w').write('|/x')", READ_ONLY),
    "press a system key": ("open('/proc/sysrq-trigger', 'w').write('b')", f"{READ_ONLY}|{ABSENT}"),
    "set a release agent": (
        "open('/sys/fs/cgroup/memory/release_agent', 'w').write('/x')",
        f"{READ_ONLY}|{ABSENT}",
    ),
    "climb out of the scratch folder": ("seen = open('../../../../../../etc/shadow').read()", DENIED),
    "follow a link out of it": (
        "os.path.lexists('out') or os.symlink('/etc/shadow', 'out'); seen = open('out').read()",
        DENIED,
    ),
}

OWN_KERNEL = {
    "read the environment of the tool host": "PermissionError|([A-Z]+=[^=]+)+$",
    "list the descriptors of the tool host": r"PermissionError|\['0'",
    "reopen any descriptor of the tool host": r"PermissionError|\['/dev/null'\]$",
    "make a disk of the host": r"PermissionError|OSError: \[Errno 6\] No such device",
    "write to /tmp": f"{READ_ONLY}|done",
}
"""What gVisor answers to some: it tells of the tool host, but hands out nothing of it, and has no disks."""


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_file_is_out_of_reach(cell: Cell, attacker: Session, attempt: str) -> None:
    code, seen = ATTEMPTS[attempt]
    answer = await said(attacker, "attempt", code=code)
    assert re.match(OWN_KERNEL.get(attempt, seen) if cell.level.own_kernel else seen, answer), answer
    await cell.unharmed()


async def test_files_of_the_host_are_not_there(cell: Cell, attacker: Session, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    for path in (tmp_path / "secret", Path("/root"), Path("/var/lib/docker"), Path(__file__)):
        answer = await said(
            attacker, "attempt", code=f"seen = os.stat({str(path)!r}) and os.listdir({str(path)!r})"
        )
        assert re.match(ABSENT, answer) or answer == "[]", answer
    await cell.unharmed()


@pytest.mark.parametrize(
    "code",
    [
        "seen = open({path!r}).read()",
        "open({path!r}, 'r+').close(); seen = 'could write'",
        "os.link({path!r}, 'linked'); seen = 'linked'",
        "os.rename({path!r}, {path!r} + '.x'); os.rename({path!r} + '.x', {path!r}); seen = 'moved'",
    ],
    ids=["read", "write", "link", "move"],
)
async def test_another_sessions_scratch(cell: Cell, code: str) -> None:
    """Open to neighbours of the same user, which sessions of one container are without `session_users`."""
    attacker = await cell.session()
    path = f"/scratch/{cell.neighbour.name}/mine"
    answer = await said(attacker, "attempt", code=code.format(path=path))
    if cell.level.shared:
        assert answer in ("precious", "could write", "linked", "moved")
    else:
        there = cell.level.recycle == "fork"
        assert re.match("PermissionError" if there else "FileNotFoundError", answer), answer
    await cell.pool.release(attacker)
    await cell.unharmed()


async def test_list_of_sessions_is_told_only_to_those_of_the_same_user(cell: Cell) -> None:
    attacker = await cell.session()
    answer = await said(attacker, "attempt", code="seen = sorted(os.listdir('/scratch'))")
    if cell.level.users:
        assert re.match(DENIED, answer), answer
    else:
        assert (cell.neighbour.name in answer) == cell.level.shared
    await cell.pool.release(attacker)


async def test_removal_of_a_scratch_folder_follows_no_link(cell: Cell) -> None:
    attacker = await cell.session()
    code = (
        f"os.mkdir('deep'); os.symlink('/scratch/{cell.neighbour.name}', 'deep/link');"
        f"os.symlink('/scratch/{cell.neighbour.name}/mine', 'file'); os.symlink('/scratch', 'all');"
        "os.mkdir('locked'); os.symlink('/', 'locked/root'); os.chmod('locked', 0)"
    )
    assert await said(attacker, "attempt", code=code) == "done"
    await cell.pool.release(attacker)
    if cell.level.recycle == "fork":
        seen = "seen = [n for n in os.listdir('/proc') if n.isdigit()]"
        for _ in range(200):  # until the process that removes it is gone
            if len((await said(cell.neighbour, "attempt", code=seen)).split(",")) <= 4:
                break
    await cell.unharmed()


async def test_shared_memory_is_the_one_place_beside_the_scratch_folder(cell: Cell) -> None:
    """What is left there outlives its session, unless that has a user of its own."""
    name = uuid.uuid4().hex
    attacker = await cell.session()
    await said(attacker, "attempt", code=f"open('/dev/shm/{name}', 'w').write('left')")
    await cell.pool.release(attacker)
    later = await cell.session()
    answer = await said(later, "attempt", code=f"seen = open('/dev/shm/{name}').read()")
    if cell.level.shared:
        assert answer == "left"
    elif cell.level.recycle == "fork":
        async with asyncio.timeout(LONG):  # a process of its own removes it
            while answer == "left":
                await asyncio.sleep(0.02)
                answer = await said(later, "attempt", code=f"seen = open('/dev/shm/{name}').read()")
        assert re.match("FileNotFoundError", answer), answer
    else:
        assert re.match("FileNotFoundError", answer), answer
    await cell.pool.release(later)
    await cell.unharmed()


async def test_file_may_not_be_larger_than_its_limit(cell: Cell) -> None:
    attacker = await cell.session()
    code = "f = open('large', 'wb'); f.truncate(65 << 20)"
    try:
        assert re.match(r"OSError: \[Errno 27\] File too large", await said(attacker, "attempt", code=code))
    except SessionLost as lost:
        assert "exit -25" in str(lost)  # SIGXFSZ
    await cell.pool.release(attacker)
    await cell.unharmed()
