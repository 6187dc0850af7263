import asyncio
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE
from pathlib import Path

import docker
import pytest

from tests.helpers.sandboxes import eventually
from workers.sandbox import ownership

pytestmark = [pytest.mark.docker, pytest.mark.faults]
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("how", ["is killed", "is stopped and killed", "exits"])
async def test_container_goes_with_its_owner(dummy_image: str, engine: docker.DockerClient, how: str) -> None:
    worker = f"test-{uuid.uuid4().hex[:8]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.workers.sandbox.owner",
        dummy_image,
        worker,
        how,
        stdout=PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        container = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        if how != "exits":
            assert engine.api.inspect_container(container)["State"]["Running"]
            if how == "is stopped and killed":
                process.send_signal(signal.SIGSTOP)
            process.kill()
        assert await asyncio.wait_for(process.wait(), 30) == (0 if how == "exits" else -signal.SIGKILL)
        labels = {"label": f"{ownership.WORKER}={worker}"}
        await eventually(lambda: engine.api.containers(all=True, filters=labels) == [])
    finally:
        if process.returncode is None:
            process.kill()
