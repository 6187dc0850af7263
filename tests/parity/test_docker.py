"""A sample of pairs in the real sandbox."""

import io
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor

import docker
import pytest

from sandbox_images.build import build_image
from tests.helpers.engine_fixtures import engine
from tests.parity.comparison import compare
from tests.parity.episode import Setting

__all__ = ["engine"]

pytestmark = [pytest.mark.parity, pytest.mark.docker]


@pytest.fixture(scope="module")
def hashing_image(engine: docker.DockerClient) -> Iterator[str]:
    """Our image, with a hash seed of its own, which is not to reach the policy by the order of a set."""
    dockerfile = f"FROM {build_image('agentdojo')}\nENV PYTHONHASHSEED=7\n"
    tag = f"kumite-test-hashing:{uuid.uuid4().hex[:8]}"
    engine.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=tag, rm=True, network_mode="none")
    yield tag
    engine.images.remove(tag, force=True)


def test_sample_of_pairs_in_a_container_is_as_agentdojo_has_it(agentdojo: Executor, hashing_image: str):
    suites = ("workspace", "travel", "banking", "slack")
    settings = [Setting("v1.2.2", suite, "important_instructions") for suite in suites]
    behaviours = ("obedient", "hijacked", "erratic")
    found = compare(agentdojo, settings, "attack", behaviours, "docker", hashing_image, every=30)
    assert found.differences == []
    assert found.episodes == 96
