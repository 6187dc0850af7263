"""The sandbox image of a node: there, built or pulled, and by one of its workers only."""

import contextlib

import docker.errors
import pytest

from cluster.errors import RunError
from cluster.pool import images, node_worker
from cluster.pool.images import ensure_image
from sandbox_images import build
from tests.helpers.rollouts import ORACLE
from workers.sandbox.base import ToolsetSpec
from workers.settings import EnvironmentSettings, SandboxSettings, WorkerSettings

AGENTDOJO = ToolsetSpec("agentdojo", "toolset:AgentDojo", {})


class Engine:
    """An engine that has the images it is told to have."""

    def __init__(self, *tags, registry=()):
        self.tags, self.registry, self.built = set(tags), set(registry), []
        self.images = self.api = self

    def version(self):
        return {"Arch": "amd64"}

    def inspect_image(self, tag):
        return {"Architecture": "arm64" if tag.startswith("arm") else "amd64"}

    def ping(self):
        return True

    def info(self):
        return {"Runtimes": {"runc": {}}}

    def pull(self, repository, tag):
        if f"{repository}:{tag}" not in self.registry:
            raise docker.errors.NotFound("manifest unknown")
        self.tags.add(f"{repository}:{tag}")


@pytest.fixture
def engine(monkeypatch, tmp_path):
    made = Engine()

    def build_image(name, on_line):
        made.built.append(name)
        made.tags.add(build.image_tag(name))

    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path))
    monkeypatch.setattr(images, "engine", lambda: contextlib.nullcontext(made))
    monkeypatch.setattr(images.build, "image_exists", lambda tag: tag in made.tags)
    monkeypatch.setattr(images.build, "build_image", build_image)
    return made


def test_our_own_image_is_built_where_it_is_missing(engine):
    tag = build.image_tag("agentdojo")
    assert ensure_image(AGENTDOJO, SandboxSettings()) == f"built {tag}"
    assert ensure_image(AGENTDOJO, SandboxSettings(image=tag)) == f"{tag} is there"
    assert engine.built == ["agentdojo"]


def test_an_image_of_a_registry_is_pulled_by_a_node_and_by_nobody_else(engine):
    engine.registry = {"registry:5000/kumite:1"}
    settings = SandboxSettings(image="registry:5000/kumite:1")
    with pytest.raises(RunError, match=r"sandbox\.image: the Docker engine has no image"):
        ensure_image(AGENTDOJO, settings)
    assert ensure_image(AGENTDOJO, settings, pull=True) == "pulled registry:5000/kumite:1"
    with pytest.raises(RunError, match=r"no image 'nowhere:1', and it cannot be pulled: .*manifest unknown"):
        ensure_image(AGENTDOJO, SandboxSettings(image="nowhere:1"), pull=True)


def test_an_image_of_another_architecture_is_refused_before_anything_starts(engine):
    engine.tags = {"arm:1"}
    with pytest.raises(RunError, match="arm:1 is for arm64, and this node's engine runs amd64"):
        ensure_image(AGENTDOJO, SandboxSettings(image="arm:1"))


@pytest.mark.slow
def test_a_node_without_docker_that_claims_sandboxes_is_named(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    settings = WorkerSettings(
        run_id="r",
        environment=EnvironmentSettings(id="tests.helpers.dummy_environment"),
        sandbox=SandboxSettings(),
        policy=ORACLE,
    )
    worker = node_worker.NodeRolloutWorker(settings, "w")
    try:
        with pytest.raises(
            RunError, match=r"on node local: sandbox.backend is `docker`, but no Docker engine"
        ):
            worker.ready()
    finally:
        worker.stop()
