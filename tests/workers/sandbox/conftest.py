import pytest

from tests.helpers.engine_fixtures import dummy_image, engine
from workers.settings import SandboxSettings

__all__ = ["docker_settings", "dummy_image", "engine"]


@pytest.fixture
def docker_settings(dummy_image: str) -> SandboxSettings:
    return SandboxSettings(image=dummy_image, memory_mb=256, pids=64, scratch_mb=8)
