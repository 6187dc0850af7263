"""Bombs and hogs. A bomb goes off only when the kernel is seen to bound its container."""

import asyncio
import re
from typing import Any

import docker
import pytest

from tests.helpers.cells import SCRATCH_MB, Cell, cell_of
from tests.helpers.sandboxes import LONG, said
from workers.errors import SandboxDied, SandboxError, SessionLost, SessionTimeout, ToolsetError
from workers.sandbox.base import Session

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

FILL_DISK = f"""
try:
    for number in range({SCRATCH_MB * 2}):
        open(f"file-{{number}}", "wb").write(b"x" * (1 << 20))
except OSError as error:
    seen = f"{{number}} MiB and then {{error.strerror}}"
"""
OPEN_FILES = """
kept = []
try:
    for _ in range(100_000):
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    seen = f"{len(kept)} and then {error.strerror}"
"""
FORK = """
pid = os.fork()
if pid == 0:
    os._exit(0)
seen = os.waitpid(pid, 0)[1]
"""
MANY_FILES = """
made = 0
try:
    while True:
        os.close(os.open(f"{folder}/empty-{{made}}", os.O_CREAT))
        made += 1
except OSError as error:
    seen = f"{{made}} and then {{error.strerror}}"
"""
REMOVE_EMPTY_FILES = """
for name in os.listdir("{folder}"):
    name.startswith("empty-") and os.unlink(f"{folder}/{{name}}")
"""


async def bounded(cell: Cell) -> Session:
    """A session to set a bomb off in."""
    session = await cell.session()
    cell.assert_limited(session)
    return session


async def test_scratch_that_is_full_is_empty_again_when_its_session_ends(cell: Cell) -> None:
    attacker = await cell.session()
    answer = await said(attacker, "attempt", code=FILL_DISK)
    assert re.fullmatch(r"1[0-6] MiB and then No space left on device", answer), answer
    write = "f = open('more', 'wb'); f.write(b'x' * 65536); f.flush(); seen = 'written'"
    answer = await said(cell.neighbour, "attempt", code=write)
    if cell.level.recycle == "fork":  # one tmpfs for all of a container's sessions
        assert "No space left on device" in answer
    else:
        assert answer == "written"
    await cell.unharmed()
    await cell.pool.release(attacker)
    async with asyncio.timeout(LONG):
        while await said(cell.neighbour, "attempt", code=write) != "written":
            await asyncio.sleep(0.02)


async def test_fork_bomb(cell: Cell) -> None:
    """Without users of their own, sessions of a container share its processes: no other can start one."""
    attacker = await bounded(cell)
    answer = await said(attacker, "fork_bomb")
    assert re.fullmatch(r"\d+ and then Resource temporarily unavailable", answer), answer
    assert int(answer.split()[0]) <= 64
    able = await said(cell.neighbour, "attempt", code=FORK)
    if cell.level.shared:
        assert "Resource temporarily unavailable" in able
    else:
        assert able == "0"
    await cell.unharmed()
    if cell.level.shared:
        with pytest.raises(SessionLost, match="Resource temporarily unavailable"):
            await cell.session()
    await cell.pool.release(attacker)
    await said(await cell.session(), "echo")
    await cell.unharmed()


async def test_memory_bomb(cell: Cell) -> None:
    """In a container of its own, it may take that with it; among others, it is the one that goes."""
    attacker = await bounded(cell)
    with pytest.raises(SessionLost if cell.level.recycle == "fork" else SandboxError, match=r"exit -9|died"):
        await attacker.call("hoard", {"megabytes": 400})
    await cell.unharmed()
    await cell.pool.release(attacker)
    await said(await cell.session(), "hoard", megabytes=30)
    await cell.unharmed()


async def test_cpu_hog_leaves_its_neighbour_a_share(cell: Cell) -> None:
    attacker, limited = await cell.session(), await cell.session()
    hog = asyncio.create_task(attacker.call("use_cpu", {}, timeout=3600))
    for _ in range(3):
        await cell.unharmed()
    assert not hog.done()
    with pytest.raises(SessionTimeout):
        await limited.call("use_cpu", {}, timeout=0.3)
    await cell.pool.release(attacker)
    with pytest.raises(SessionLost):
        await hog
    await cell.pool.release(limited)
    await cell.unharmed()


async def test_tool_that_never_returns(cell: Cell) -> None:
    attacker = await cell.session()
    with pytest.raises(SessionTimeout, match="call did not end within its time limit"):
        await attacker.call("sleep", {"seconds": 3600}, timeout=0.3)
    await cell.pool.release(attacker)
    await cell.unharmed()


async def test_100_000_open_files(cell: Cell) -> None:
    attacker = await cell.session()
    answer = await said(attacker, "attempt", code=OPEN_FILES)
    assert re.fullmatch(r"2\d\d and then Too many open files", answer), answer
    await cell.unharmed()
    await cell.pool.release(attacker)


@pytest.mark.parametrize("folder", [".", "/dev/shm"])
async def test_files_without_content_are_bounded_too(cell: Cell, folder: str) -> None:
    """Each costs kernel memory that no process holds: without a bound they end the container."""
    attacker = await bounded(cell)
    answer = await said(attacker, "attempt", code=MANY_FILES.format(folder=folder), timeout=600)
    assert re.fullmatch(r"\d+ and then No space left on device", answer), answer
    await cell.unharmed()
    assert await said(attacker, "attempt", code=REMOVE_EMPTY_FILES.format(folder=folder)) == "done"
    await cell.pool.release(attacker)


async def test_1_gib_of_output_goes_nowhere(cell: Cell) -> None:
    attacker = await cell.session()
    code = "chunk = b'x' * (1 << 20)\nfor n in range(1024): os.write(1 + n % 2, chunk)"
    assert await said(attacker, "attempt", code=code) == "done"
    await cell.unharmed()
    await cell.pool.release(attacker)


async def test_100_mib_result(cell: Cell) -> None:
    attacker = await cell.session()
    try:
        await attacker.call("big", {"size": 100 << 20})
        pytest.fail("it got through")
    except ToolsetError as refused:
        assert "is over the limit" in str(refused)
    except SandboxError as lost:
        assert re.search(r"exit -9|died", str(lost)), lost
    await cell.unharmed()
    await cell.pool.release(attacker)


async def test_limits_of_a_session(cell: Cell, engine: docker.DockerClient) -> None:
    """CPU seconds, address space, open files and file size, each set far below its default."""
    image = cell.neighbour.sandbox.settings.image
    assert image
    limits: dict[str, Any] = {"cpu_seconds": 1, "address_space_mb": 200, "open_files": 32, "file_size_mb": 1}
    async with cell_of(cell.level, image, engine, **limits) as strict:
        attacker = await strict.session()
        assert "MemoryError" in await said(attacker, "attempt", code="bytearray(200 << 20)")
        assert re.match(r"2\d and then Too many", await said(attacker, "attempt", code=OPEN_FILES))
        large = await said(
            attacker, "attempt", code="os.truncate(os.open('f', os.O_CREAT | os.O_RDWR), 2 << 20)"
        )
        assert "Too many open files" in large
        other = await strict.session()
        large = await said(other, "attempt", code="open('f', 'wb').truncate(2 << 20)")
        assert "File too large" in large
        with pytest.raises(SessionLost, match=r"exit -(9|24)\)"):
            await other.call("use_cpu", {}, timeout=240)
        await strict.unharmed()


async def test_out_of_memory_with_many_sessions_ends_in_a_container_that_serves(cell: Cell) -> None:
    """Sessions go, or the container with all of them does; the pool replaces it, and nothing hangs."""
    if cell.level.recycle == "episode":
        pytest.skip("one session to a container")
    cell.assert_limited(cell.neighbour)
    others = [await cell.session() for _ in range(6)]
    calls = [session.call("hoard", {"megabytes": 80}) for session in others]
    async with asyncio.timeout(240):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    lost = [one for one in outcomes if isinstance(one, SandboxError)]
    assert lost
    assert all(re.search(r"exit -9|died", str(one)) for one in lost), lost
    for session in others:
        try:
            await cell.pool.release(session)
        except SandboxDied:
            continue
    if cell.neighbour.sandbox.alive:
        await cell.unharmed()
    again = await cell.session()
    await said(again, "hoard", megabytes=30)
    await cell.pool.release(again)
    if not cell.neighbour.sandbox.alive:
        await cell.pool.release(cell.neighbour)
        await cell.move_in()
