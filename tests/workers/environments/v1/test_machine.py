"""A machine's programs and files, without a container: the tool host is a child process."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.helpers.sandboxes import OWNER, process_settings
from workers.environments.v1.machine import Machine, MachineError
from workers.errors import SessionSetupError
from workers.sandbox.base import Session, ToolsetSpec
from workers.sandbox.process import ProcessSandbox

SPEC = ToolsetSpec(image="harness", toolset="sandbox_images.machine.toolset:MachineToolset")


@asynccontextmanager
async def session(workdir: str | None = None) -> AsyncIterator[Session]:
    sandbox = ProcessSandbox(SPEC, process_settings(unsafe=True), OWNER)
    await sandbox.start()
    try:
        opened = sandbox.session("a")
        await opened.open({"workdir": workdir})
        yield opened
        await opened.close()
    finally:
        await sandbox.stop()


@asynccontextmanager
async def machine(workdir: str | None = None) -> AsyncIterator[Machine]:
    async with session(workdir) as opened:
        made = Machine(opened)
        try:
            yield made
        finally:
            await made.close()


async def test_a_program_is_run_and_its_streams_are_kept_apart() -> None:
    async with machine() as here:
        assert await here.run(["sh", "-c", "echo out; echo err >&2; exit 3"], {}) == (3, b"out\n", b"err\n")
        assert await here.run(["sh", "-c", "echo $WHAT"], {"WHAT": "this"}) == (0, b"this\n", b"")
        status, out, _ = await here.run(["head", "-c", "3000000", "/dev/zero"], {})
        assert (status, len(out)) == (0, 3_000_000)
        assert (await here.run(["no-such-program"], {}))[0] == 127


async def test_programs_at_the_same_time_do_not_wait_for_each_other() -> None:
    async with machine() as here:
        slow = asyncio.create_task(here.run(["sleep", "300.0625"], {}))
        began = time.monotonic()
        results = await asyncio.gather(*(here.run(["echo", str(n)], {}) for n in range(8)))
        assert [out for _, out, _ in results] == [f"{n}\n".encode() for n in range(8)]
        assert time.monotonic() - began < 120
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert (await here.run(["sh", "-c", "ps ax | grep -c '[s]leep 300.0625'"], {}))[1] == b"0\n"


async def test_requests_that_come_in_one_go_do_not_wait_for_an_event() -> None:
    async with session() as opened:
        began = time.monotonic()
        waits = [asyncio.create_task(opened.call("events", {"seconds": 60.0})) for _ in range(4)]
        told = await opened.call("describe", {})
        assert json.loads(told.content)["programs"] == {}
        assert time.monotonic() - began < 30
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)


async def test_a_program_is_written_to_and_its_input_ends() -> None:
    async with machine() as here:
        program = await here.start(["sh", "-c", "cat; echo end"], {}, stdin=True)
        await program.write(b"x" * 300_000)
        await program.write(b"")
        status, out, _ = await program.collect()
        assert (status, out) == (0, b"x" * 300_000 + b"end\n")


@pytest.mark.slow
async def test_files_of_any_size_are_carried(tmp_path: Path) -> None:
    large = bytes(range(256)) * 40_000
    async with machine(str(tmp_path / "made")) as here:
        await here.write("a/b.bin", large)
        assert (tmp_path / "made" / "a" / "b.bin").read_bytes() == large
        assert await here.read("a/b.bin") == large
        assert await here.read("a/b.bin", 10) == large[:10]
        await here.write("a/b.bin", b"")
        assert await here.read(str(tmp_path / "made" / "a" / "b.bin")) == b""
        with pytest.raises(MachineError, match="No such file"):
            await here.read("none")
        with pytest.raises(MachineError, match="no regular file"):
            await here.read("/dev/zero")


async def test_a_program_in_the_background_writes_to_its_log() -> None:
    async with machine() as here:
        program = await here.start(["sh", "-c", "echo one; echo two >&2"], {}, log="logs/it.log")
        assert await program.ended == 0
        assert await here.read("logs/it.log") == b"one\ntwo\n"


async def test_a_folder_that_cannot_be_made_is_said_with_what_to_do() -> None:
    with pytest.raises(SessionSetupError, match=r"workdir: /proc/none .* set sandbox\.user to root"):
        async with session("/proc/none"):
            pass
