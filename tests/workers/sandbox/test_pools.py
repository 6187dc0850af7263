"""A task's own image: its episodes are played in it, and its sandboxes go when nobody uses them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from cluster.errors import RunError
from cluster.pool.images import ensure_image, with_image
from sandbox_images.build import build_image
from tests.helpers.other_images import built, other_architecture
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.sandboxes import OWNER, dummy, process_settings
from workers.environments.shell.environment import load_environment
from workers.errors import SandboxStartError
from workers.sandbox import ownership
from workers.sandbox.pools import SandboxPools, SandboxWish
from workers.sandbox.task_images import image_of
from workers.settings import SandboxSettings

MARKED = "FROM {base}\nUSER root\nRUN echo marked > /opt/mark\nUSER 65534:65534\n"
CALLS = '[[calls]]\ntool = "bash"\n[calls.arguments]\ncommand = "cat /opt/mark > seen.txt; true"\n'
TESTS = 'def test_mark(subject):\n    assert subject.read("seen.txt") == {expected!r}\n'


def write_task(folder: Path, name: str, image: str | None, expected: str) -> None:
    """A task that is solved in an image with a mark, or in one without."""
    (folder / name / "files").mkdir(parents=True)
    card = 'kind = "find"\ndifficulty = "easy"\ninstruction = "Copy the mark."\n'
    (folder / name / "task.toml").write_text(card + (f'image = "{image}"\n' if image else ""))
    (folder / name / "tests.py").write_text(TESTS.format(expected=expected))
    (folder / name / "solution.toml").write_text(f'message = "done"\n{CALLS}')


@pytest.fixture(scope="module")
def marked(engine: docker.DockerClient) -> Iterator[str]:
    with built(engine, MARKED.format(base=build_image("shell"))) as tag:
        yield tag


@pytest.mark.docker
@pytest.mark.parametrize("recycle", ["episode", "fork"])
def test_each_task_is_played_in_its_image_and_nothing_of_it_stays(
    engine: docker.DockerClient, marked: str, tmp_path: Path, recycle: str
) -> None:
    write_task(tmp_path, "in-its-own", marked, "marked\n")
    write_task(tmp_path, "in-the-usual", None, "")
    args: dict[str, Any] = {"folder": str(tmp_path)}
    toolset = load_environment(**args).toolset
    assert toolset.task_images == (marked,)
    ensure_image(toolset, SandboxSettings())
    settings = {"recycle": recycle, "unsafe": True}
    sandbox = with_image(toolset, SandboxSettings.model_validate(settings)).model_dump()
    with rollout_worker("shell", args=args, sandbox=sandbox) as worker:
        tasks = rows(worker)
        assert {row["info"]["name"]: image_of(row) for row in tasks} == {
            "in-its-own": marked,
            "in-the-usual": None,
        }
        results = played(worker, *[spec(row) for row in tasks for _ in range(2)])
        for result in results:
            assert (result.status, result.reward) == ("finished", 1.0), (
                result.error_message,
                record(result).details,
            )
        assert sum(result.sandbox_creations for result in results) >= 2
        filters = {"ancestor": marked, "label": f"{ownership.WORKER}=test-worker"}
        assert engine.api.containers(all=True, filters=filters) == []


@pytest.mark.docker
def test_an_image_that_no_sandbox_can_have_is_said_before_an_episode(
    engine: docker.DockerClient, marked: str, tmp_path: Path
) -> None:
    write_task(tmp_path / "gone", "task", "no-such-image:1", "")
    gone = load_environment(folder=str(tmp_path / "gone")).toolset
    with pytest.raises(
        RunError, match="a task names the image 'no-such-image:1', and the Docker engine has none"
    ):
        ensure_image(gone, SandboxSettings())
    with other_architecture(engine, marked) as foreign:
        write_task(tmp_path / "foreign", "task", foreign, "")
        spec_of_foreign = load_environment(folder=str(tmp_path / "foreign")).toolset
        with pytest.raises(RunError, match=f"{foreign} is for arm64, and this node's engine runs amd64"):
            ensure_image(spec_of_foreign, SandboxSettings())


def test_sandboxes_without_images_refuse_a_task_that_names_one() -> None:
    async def play() -> None:
        pools = SandboxPools(dummy(), process_settings(), OWNER)
        try:
            with pytest.raises(
                SandboxStartError, match=r"the task names the image x:1, and sandbox\.backend"
            ):
                await pools.acquire("one", SandboxWish(image="x:1"))
            session = await pools.acquire("two")
            assert pools.created >= 1
            await pools.release(session)
        finally:
            await pools.close()

    asyncio.run(play())


def test_a_rows_image_is_read_from_its_info_in_any_form() -> None:
    assert image_of({"info": {"sandbox_image": "x:1"}}) == "x:1"
    assert image_of({"info": json.dumps({"sandbox_image": "x:1"})}) == "x:1"
    assert image_of({"info": {"sandbox_image": None}}) is None
    assert image_of({"info": {}}) is None
    assert image_of({}) is None
