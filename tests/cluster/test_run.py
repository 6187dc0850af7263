"""A run with the real plan, pool, coordinator and dataset, whose workers are in this process."""

import asyncio
import io
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.config import RunConfig
from cluster.dataset.dataset import Dataset, episode_statuses
from cluster.dataset.manifest import load_manifest
from cluster.dataset.remote import local_folder
from cluster.dataset.run_folder import Target
from cluster.ending import Interrupted
from cluster.observe.progress import Progress
from cluster.observe.summary import Summary
from cluster.parts import RunComponents, start_components
from cluster.plan.plan import load_plan
from cluster.policy.oracle import OraclePolicyClient
from cluster.pool.worker_pool import WorkerPool
from cluster.run import _play_plan
from tests.cluster.synthetic import episode, result
from workers.records import EpisodeResult, EpisodeSpec

FIELDS: dict[str, Any] = {
    "environment": {"id": "tests.helpers.slow_environment", "args": {"tasks": 12}},
    "policy": {"kind": "oracle"},
    "workers": {"max": 3, "episodes_per_worker": 4},
}


class Worker:
    """Finishes every episode at once."""

    node_id: str | None = "here"
    pid: int | None = 1

    def __init__(self, name: str) -> None:
        self.name = name

    async def wait_until_ready(self) -> None: ...

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        fields = ("episode_id", "task_id", "group_id", "sample_index")
        return [result(episode(0, **{name: getattr(spec, name) for name in fields})) for spec in specs]

    def cancel(self, episode_ids: Collection[str]) -> None: ...

    def set_version(self, version: int) -> None: ...

    async def wait_for_end(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def stop(self) -> None: ...


class Run:
    """A run in a folder, begun or taken up again; `asked` has the workers of its last time."""

    def __init__(self, folder: Path) -> None:
        self.target = Target(folder, "run")
        self.asked: list[str] = []

    async def play(self) -> Summary:
        config = RunConfig.model_validate(FIELDS)
        _, plan = load_plan(config, "run")
        self.asked.clear()

        def ask(name: str) -> Worker:
            self.asked.append(name)
            return Worker(name)

        pool = WorkerPool(config.workers, ask)
        parts = RunComponents(plan, lambda split: plan, OraclePolicyClient(), pool, "oracle", None)
        return await asyncio.wait_for(
            _play_plan(config, parts, Progress(Console(file=io.StringIO())), self.target), 60
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


async def test_a_resumed_run_asks_for_workers_by_what_is_missing(run: Run) -> None:
    assert (await run.play()).finished == 12
    assert len(run.asked) == 3
    async with await Dataset.open(run.target.folder, "run") as dataset:
        await dataset.forget(set(sorted(await dataset.episode_ids())[:3]))
    assert (await run.play()).finished == 12
    assert len(run.asked) == 1


async def test_a_resumed_run_that_lacks_nothing_asks_for_no_worker(run: Run) -> None:
    await run.play()
    assert (await run.play()).finished == 12
    assert run.asked == []


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_signal_while_the_dataset_is_opened_ends_the_run_before_its_first_episode(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, resumed: bool
) -> None:
    if resumed:
        await run.play()
        async with await Dataset.open(run.target.folder, "run") as dataset:
            await dataset.forget(await dataset.episode_ids())
    set_planned = Dataset.set_planned

    async def interrupted(dataset: Dataset, episodes: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while "SIGINT: no new episodes" not in caplog.text:
            await asyncio.sleep(0)
        await set_planned(dataset, episodes)

    monkeypatch.setattr(Dataset, "set_planned", interrupted)
    with pytest.raises(Interrupted) as ended:
        await run.play()
    assert ended.value.exit_code == 130
    async with await Dataset.open(run.target.folder, "run") as dataset:
        assert await dataset.episode_ids() == set()


@pytest.mark.parametrize("place", ["folder", "uri"])
async def test_a_run_that_is_taken_first_is_played_and_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    config = RunConfig.model_validate(FIELDS)
    out = str(tmp_path / "run") if place == "folder" else f"file://{tmp_path}/bucket/run"
    run = Run(tmp_path / "unused")
    for take_ups in (1, 2):
        run.target = Target.new(config, out) if take_ups == 1 else Target.resumed(out, False)
        with run.target.held(config):
            assert (await run.play()).finished == 12
        assert load_manifest(run.target.folder).take_ups == take_ups
        assert len(run.asked) == (3 if take_ups == 1 else 0)
    assert len(episode_statuses(local_folder(out))) == 12


ELSEWHERE = """
import os
import verifiers as vf
from datasets import Dataset

def load_environment():
    os.chdir("/")
    return vf.SingleTurnEnv(eval_dataset=Dataset.from_list([{"question": "a"}]), rubric=vf.Rubric())
"""


def test_an_environment_that_goes_to_another_folder_leaves_the_runs_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    def stop(plan: object) -> None:
        raise Enough

    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.chdir(tmp_path)
    environment = {"id": "elsewhere.py", "folder": str(tmp_path)}
    config = RunConfig.model_validate({"environment": environment, "policy": {"kind": "oracle"}})
    progress = Progress(Console(file=io.StringIO()))
    with pytest.raises(Enough), start_components(config, "run", progress, check=stop):
        pass
    assert Path.cwd() == tmp_path
