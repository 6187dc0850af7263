"""Ways to more privileges, and what only the privileged may do. None of it may change the host."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cells import Cell
from tests.helpers.sandboxes import said
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

_CALL = """
libc = ctypes.CDLL(None, use_errno=True)
got = libc.{call}
seen = got if got >= 0 else os.strerror(ctypes.get_errno())
"""
DENIED = r"Operation not permitted|Permission denied|Function not implemented|Bad file descriptor"
REFUSED = r"PermissionError|OSError: \[Errno (1|13|30|38)\]"
CALLS = {
    "mount a file system": 'mount(b"none", b"/scratch", b"tmpfs", 0, None)',
    "mount the root writable": 'mount(b"none", b"/", None, 32 | 4096, None)',
    "bind a folder": 'mount(b"/proc", b"/scratch", None, 4096, None)',
    "unmount": 'umount2(b"/scratch", 2)',
    "change the root": 'chroot(b"/scratch")',
    "set the clock": 'settimeofday(b"\\0" * 16, None)',
    "adjust the clock": 'adjtimex((b"\\x01" + b"\\0" * 255))',
    "set the host name": 'sethostname(b"mine", 4)',
    "swap": 'swapon(b"/scratch", 0)',
    "load a module": 'syscall({"x86_64": 175}.get(os.uname().machine, 105), b"x" * 64, 64, b"")',
    "load a module from a file": 'syscall({"x86_64": 313}.get(os.uname().machine, 273), 0, b"", 0)',
    "remove a module": 'syscall({"x86_64": 176}.get(os.uname().machine, 106), b"overlay", 2048)',
    "load another kernel": 'syscall({"x86_64": 246}.get(os.uname().machine, 104), 0, 0, 0, 0)',
    "load a BPF program": 'syscall({"x86_64": 321}.get(os.uname().machine, 280), 5, b"\\0" * 128, 128)',
    "use the kernel's keyring": 'syscall({"x86_64": 250}.get(os.uname().machine, 219), 0, -3, 1)',
    "watch performance counters": (
        'syscall({"x86_64": 298}.get(os.uname().machine, 241), b"\\0" * 128, 0, -1, -1, 0)'
    ),
    "open files by handle": (
        'syscall({"x86_64": 304}.get(os.uname().machine, 265), -100, b"\\x08\\0\\0\\0\\x01\\0\\0\\0" * 4, 0)'
    ),
    "raise its limits": 'prlimit(1, 7, b"\\xff" * 16, None)',
}
CODE = {
    "become root": "os.setuid(0)",
    "become another user": "os.setresuid(1, 1, 1)",
    "join another group": "os.setgroups([0])",
    "give a file away": "open('given', 'w'); os.chown('given', 0, 0)",
    "set the real-time clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "join the namespaces of the tool host": "open('/proc/1/ns/mnt')",
    "raise its priority": "os.nice(-5)",
}
OWN_KERNEL = r"No such device|Operation not supported"
"""What gVisor answers beside: it has no performance counters and no handles of files."""
NAMESPACES = {"mount": 0x00020000, "user": 0x10000000, "network": 0x40000000}
IN_A_NAMESPACE = """
libc = ctypes.CDLL(None, use_errno=True)
seen = []
for attempt in (
    lambda: os.kill(1, 9),
    lambda: os.kill({neighbour}, 9),
    lambda: open("/scratch/{name}/mine").read(),
    lambda: os.setuid(0),
    lambda: open("/proc/self/uid_map", "w").write("0 0 4294967295"),
    lambda: open("/etc/shadow").read(),
    lambda: open("/etc/file", "w"),
    lambda: socket.sethostname("mine"),
    lambda: os.chown("/scratch", 0, 0),
    lambda: socket.create_connection(("1.1.1.1", 80), 2),
    lambda: libc.mount(b"none", b"/scratch", b"tmpfs", 0, None) == 0 or os.stat("/not mounted"),
):
    try:
        attempt()
        seen.append("got")
    except OSError as error:
        seen.append(error.strerror)
"""
SETUID = """
import shutil, stat, subprocess
assert os.stat("/opt/setuid-id").st_mode & stat.S_ISUID and os.stat("/opt/setuid-id").st_uid == 0
if not os.path.exists("own"):
    shutil.copy("/opt/setuid-id", "own")
    os.chmod("own", 0o6755)
seen = []
for program in ("/opt/setuid-id", os.path.abspath("own")):
    for option in ("-u", "-g"):
        try:
            ran = subprocess.run([program, option], capture_output=True, text=True, timeout=10)
            seen.append(int(ran.stdout) - (os.getuid() if option == "-u" else os.getgid()))
        except PermissionError:
            seen.append("refused")
"""


@pytest.fixture(autouse=True)
def host_is_as_before() -> Iterator[None]:
    """The host's name, clock and modules."""

    def host() -> tuple[str, set[str]]:
        modules = Path("/proc/modules")
        lines = modules.read_text().splitlines() if modules.exists() else []
        return os.uname().nodename, {line.split()[0] for line in lines}

    before, offset = host(), time.time() - time.monotonic()
    yield
    assert host() == before
    assert abs(time.time() - time.monotonic() - offset) < 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_system_call_is_refused(cell: Cell, attacker: Session, call: str) -> None:
    answer = await said(attacker, "attempt", code=_CALL.format(call=call))
    assert re.match(f"{DENIED}|{OWN_KERNEL}" if cell.level.own_kernel else DENIED, answer), answer
    await cell.unharmed()


@pytest.mark.parametrize("namespace", NAMESPACES)
async def test_namespace_of_its_own_is_refused_or_leads_nowhere(cell: Cell, namespace: str) -> None:
    """gVisor hands them out, all capabilities in them included: of its own kernel, and of nobody's things."""
    attacker = await cell.session()
    call = f"unshare({NAMESPACES[namespace]})"
    answer = await said(attacker, "attempt", code=_CALL.format(call=call))
    if not cell.level.own_kernel:
        assert re.match(DENIED, answer), answer
    code = IN_A_NAMESPACE.format(neighbour=cell.neighbour_pid, name=cell.neighbour.name)
    if cell.level.recycle == "episode" or cell.level.shared:  # no neighbour there, or open to it anyway
        code = code.replace("/scratch/", "/nowhere/").replace(str(cell.neighbour_pid), "100000")
    if cell.level.users:
        assert "got" not in await said(attacker, "attempt", code=code)
    await cell.pool.release(attacker)
    await cell.unharmed()


@pytest.mark.parametrize("code", CODE.values(), ids=CODE)
async def test_privilege_is_refused(cell: Cell, attacker: Session, code: str) -> None:
    answer = await said(attacker, "attempt", code=code)
    if cell.level.own_kernel and "nice" in code:
        assert answer == "done"  # a number that it keeps and does nothing with
    elif cell.level.own_kernel and "/ns/" in code:
        assert re.match("FileNotFoundError", answer), answer
    else:
        assert re.match(REFUSED, answer), answer
    await cell.unharmed()


async def test_session_has_no_capability_and_can_get_none(cell: Cell, attacker: Session) -> None:
    lines = (await said(attacker, "read", path="/proc/self/status")).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status.get(kind, "0" if cell.level.own_kernel else "unknown"), 16) == 0
    # What the tool host holds with session_users is still in the bounding set: a file could hand it out if
    # new privileges were to be had.
    allowed = {0, 5, 6, 7} if cell.level.users else set[int]()
    assert {bit for bit in range(64) if int(status["CapBnd"], 16) >> bit & 1} == allowed
    assert status.get("NoNewPrivs", "1" if cell.level.own_kernel else None) == "1"


async def test_setuid_programs_give_nothing(cell: Cell, attacker: Session) -> None:
    """One of root's in the image runs as who calls it; in the scratch folder nothing can be run at all."""
    answer = await said(attacker, "attempt", code=SETUID)
    assert answer == "[0, 0, 'refused', 'refused']"
    await cell.unharmed()
