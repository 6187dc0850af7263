"""The environment of docs/environments.md, made of the page's own code."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from cluster.config.file import load_config
from cluster.plan.plan import load_plan
from sandbox_images.build import build_image
from tests.helpers.engine_fixtures import engine
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec

__all__ = ["engine"]

PAGE = Path(__file__).parents[3] / "docs" / "environments.md"
FILES = {"notes_environment.py", "notes_toolset.py", "notes.Dockerfile", "notes.yaml"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files in it."""
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert {name for name, _ in blocks} == FILES
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def image(folder: Path, engine: docker.DockerClient) -> Iterator[str]:
    tag = f"kumite-test-notes:{uuid.uuid4().hex[:8]}"
    arguments = {"KUMITE": build_image("shell")}
    built = engine.images.build(
        path=str(folder), dockerfile="notes.Dockerfile", buildargs=arguments, tag=tag, rm=True
    )
    yield tag
    engine.images.remove(str(built[0].id), force=True)


def solve_all(folder: Path, **sandbox: str) -> None:
    """Plays every task of the page by its oracle."""
    with rollout_worker(str(folder / "notes_environment.py"), sandbox=sandbox) as worker:
        results = played(worker, *(spec(row) for row in rows(worker)))
    for result in results:
        assert (result.status, result.metrics["copied"], result.reward) == ("finished", 1.0, 1.0), result
        called = [message.tool_calls[0] for message in record(result).messages if message.tool_calls]
        assert [call.function.name for call in called] == ["read_note", "write_note"]
        assert json.loads(called[1].function.arguments)["name"] == "call"


def test_config_of_the_page_selects_its_tasks(folder: Path) -> None:
    config = load_config(folder / "notes.yaml")
    assert config.sandbox.image == "notes:1"
    _, plan = load_plan(config, "run")
    assert [unit[0].task_id for unit in plan.units()] == ["plumber", "dentist"]


def test_oracle_solves_the_page_without_docker(folder: Path) -> None:
    solve_all(folder, backend="process")


@pytest.mark.docker
def test_oracle_solves_the_page_in_the_image_that_it_builds(folder: Path, image: str) -> None:
    solve_all(folder, backend="docker", image=image)
