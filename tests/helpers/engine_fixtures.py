"""Fixtures around a real Docker engine, for the `conftest.py` of whoever needs one."""

import io
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sandbox_images.build import build_image

_HELPERS = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def dummy_image(engine: docker.DockerClient) -> Iterator[str]:
    """An image of the tool host with the dummy toolset in it."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        dockerfile = (
            f"FROM {build_image('agentdojo')}\nCOPY helpers /opt/kumite/tests/helpers\n"
            'USER 0:0\nRUN ["install", "-m", "6755", "/usr/bin/id", "/opt/setuid-id"]\nUSER 65534:65534\n'
        ).encode()
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        tar.addfile(member, io.BytesIO(dockerfile))
        for name in ("__init__.py", "dummy_toolset.py"):
            tar.add(_HELPERS / name, f"helpers/{name}")
    context.seek(0)
    tag = f"kumite-test-dummy:{uuid.uuid4().hex[:8]}"
    engine.images.build(
        fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, network_mode="none"
    )
    yield tag
    engine.images.remove(tag, force=True)
