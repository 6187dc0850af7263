import asyncio
import os
import subprocess
import sys

import pytest

from workers.sandbox import creation
from workers.sandbox.creation import creation_slot


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(creation.tempfile, "gettempdir", lambda: str(tmp_path))


async def test_no_more_creations_at_once_than_there_are_places():
    at_once = most = 0

    async def create():
        nonlocal at_once, most
        async with creation_slot():
            at_once += 1
            most = max(most, at_once)
            while most < creation.AT_ONCE:
                await asyncio.sleep(0.01)
            at_once -= 1

    await asyncio.gather(*(create() for _ in range(20)))
    assert most == creation.AT_ONCE


async def test_a_process_that_dies_gives_its_place_back(tmp_path):
    program = (
        "import asyncio, sys; from workers.sandbox import creation\n"
        f"creation.tempfile.gettempdir = lambda: {str(tmp_path)!r}\n"
        "async def main():\n"
        "    slots = [creation.creation_slot() for _ in range(creation.AT_ONCE)]\n"
        "    for slot in slots: await slot.__aenter__()\n"
        "    print('all taken', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=os.getcwd())
    try:
        assert holder.stdout.readline() == b"all taken\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), creation_slot():
                pass
    finally:
        holder.kill()
        holder.communicate(timeout=10)
    async with asyncio.timeout(60), creation_slot():
        pass
