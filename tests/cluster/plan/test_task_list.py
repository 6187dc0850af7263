"""A run that is taken up again must find the tasks that it began with; none of the driver's turns is long."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cluster.config import RunConfig
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.manifest import load_manifest, manifest_path
from cluster.ending import run_in_turns
from cluster.errors import ConfigError
from cluster.observe.progress import Progress
from cluster.plan.plan import Plan
from cluster.plan.resume import check_tasks, note_tasks, order_seed
from cluster.plan.task_list import TaskList
from cluster.pool.worker_pool import WorkerPool
from cluster.run import _find_remaining_work
from tests.helpers.loop_engine import Stage, Tasks, config_of, stage_engine
from workers.records import episode_id


def listed(ids: list[str]) -> TaskList:
    tasks = TaskList()
    for task_id in ids:
        tasks.add(task_id, {"prompt": "p", "answer": "a"})
    return tasks


async def begun(folder: Path, tasks: Any, **fields: Any) -> RunConfig:
    """A run's folder, in which the tasks are noted."""
    config = config_of(**fields)
    async with await Dataset.open(folder, "run") as dataset:
        await note_tasks(dataset, "eval", Plan(config, tasks, "run"))
        await dataset.set_planned(1)
    return config


async def test_what_lies_beside_a_tasks_prompt_and_answer_may_change_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder's place on another machine, or the tests that a reward runs: nobody can tell which."""
    tasks = Tasks(3)
    config = await begun(tmp_path, tasks)
    check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))
    assert not caplog.text
    tasks.data[1]["info"] = {"task_id": "t1", "tests": "assert answer == 5", 1: "keys of two kinds"}
    check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))
    assert "the `info` of tasks is not what it was when the run began" in caplog.text
    caplog.clear()
    manifest = json.loads(manifest_path(tmp_path).read_bytes())
    del manifest["tasks"]["eval"]["info"]  # as an earlier version wrote it
    manifest_path(tmp_path).write_text(json.dumps(manifest))
    check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))
    assert not caplog.text


def _change(field: str, value: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda data: data[2].update({field: value})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_change("prompt", "another"), "changed: 't2'"),
        (_change("answer", "42"), "changed: 't2'"),
        (_change("info", {"task_id": "x"}), "gone: 't2'; new: 'x'"),
        (lambda data: data.pop(), "gone: 't7'"),
        (lambda data: [row.update(prompt="another") for row in data], "'t3', 't4' and 3 more"),
    ],
)
async def test_tasks_that_have_changed_are_named_and_what_to_do(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], complaint: str
) -> None:
    tasks = Tasks(8)
    config = await begun(tmp_path, tasks)
    check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))
    change(tasks.data)
    with pytest.raises(ConfigError, match=complaint) as refused:
        check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))
    for said in ("--resume", "two tasks", "begin a new run", "manifest.json"):
        assert said in str(refused.value)
    async with await Dataset.open(tmp_path, "run") as dataset:
        with pytest.raises(ConfigError, match=complaint):
            await note_tasks(dataset, "eval", Plan(config, tasks, "run"))


async def test_numbered_rows_in_another_order_are_other_tasks_and_named_ones_are_not(tmp_path: Path) -> None:
    named, numbered = Tasks(8), Tasks(8)
    for row in numbered.data:
        row["info"] = {}
    config = await begun(tmp_path / "named", named)
    named.data.reverse()
    check_tasks(tmp_path / "named", "eval", Plan(config, named, "run"))
    config = await begun(tmp_path / "numbered", numbered)
    prompts = [row["prompt"] for row in numbered.data][::-1]
    for row, prompt in zip(numbered.data, prompts, strict=True):
        row["prompt"] = prompt
    with pytest.raises(ConfigError, match="changed: '0', '1'"):
        check_tasks(tmp_path / "numbered", "eval", Plan(config, numbered, "run"))


async def test_a_run_of_before_there_was_a_digest_goes_on_and_says_that_nothing_was_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with await Dataset.open(tmp_path, "run") as dataset:
        await dataset.set_planned(8)
    config, tasks = config_of(shuffle=True), Tasks(8)
    assert order_seed(tmp_path, config) is None, "whose order its id has seeded"
    check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))
    assert "was not compared" in caplog.text
    async with await Dataset.open(tmp_path, "run") as dataset:
        await note_tasks(dataset, "eval", Plan(config, tasks, "run"))
    tasks.data.pop()
    with pytest.raises(ConfigError, match="gone: 't7'"):
        check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))


async def test_without_the_list_the_digest_still_tells(tmp_path: Path) -> None:
    tasks = Tasks(8)
    config = await begun(tmp_path, tasks)
    [path] = (tmp_path / "tasks").iterdir()
    path.write_bytes(b"torn")
    tasks.data.pop()
    with pytest.raises(ConfigError, match="there were 8, there are 7"):
        check_tasks(tmp_path, "eval", Plan(config, tasks, "run"))


@pytest.mark.slow
async def test_a_trainers_loop_refuses_other_tasks_of_either_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Tasks(4)
    async with stage_engine(monkeypatch, tmp_path / "run", Stage(), tasks) as engine:
        assert len([group async for group in engine.rollouts(2)]) == 2
        assert len([group async for group in engine.rollouts(1, split="train")]) == 1
    manifest = load_manifest(tmp_path / "run")
    assert manifest.tasks.keys() == {"eval", "train"}
    async with stage_engine(monkeypatch, tmp_path / "run", Stage(), tasks, resume=True) as engine:
        assert {group.task_id async for group in engine.rollouts(2)} == {"t2", "t3"}
    tasks.data[1]["prompt"] = "another"
    with pytest.raises(ConfigError, match=r"resume: .*changed: 't1'"):
        async with stage_engine(monkeypatch, tmp_path / "run", Stage(), tasks, resume=True):
            pass
    path = manifest_path(tmp_path / "run")
    path.write_text(
        manifest.model_copy(update={"tasks": {"train": manifest.tasks["train"]}}).model_dump_json()
    )
    async with stage_engine(monkeypatch, tmp_path / "run", Stage(), tasks, resume=True) as engine:
        with pytest.raises(ConfigError, match=r"environment\.split train.*changed: 't1'"):
            [group async for group in engine.rollouts(1, split="train")]
        assert len([group async for group in engine.rollouts(1)]) == 1


@pytest.mark.slow
def test_ids_come_back_as_they_were_and_in_order() -> None:
    ids = [f"t{i}" for i in range(9000)] + ["a\nb", "é", "\ud800", ""]
    tasks = listed(ids)
    assert [task_id for part in tasks.ids(64) for task_id in part] == ids
    assert len(tasks) == tasks.digest.tasks == len(ids)
    assert listed(ids[::-1]).digest.content == tasks.digest.content
    assert listed(ids[::-1]).digest.order != tasks.digest.order
    assert listed([*ids, "more"]).digest.content != tasks.digest.content


@pytest.mark.slow
async def test_what_an_earlier_process_left_is_worked_out_in_turns_and_without_reading_a_row() -> None:
    tasks = Tasks(6400)
    plan = Plan(config_of(samples=4, keep=2), tasks, "run")
    statuses = {episode_id("e", f"t{i}", s): "finished" for i in range(6399) for s in range(2)}
    tasks.read, turns, over = 0, 0, False

    async def count() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    left = await run_in_turns(_find_remaining_work(plan, statuses, False))
    assert turns >= 2 * 6400 / 64, "at which a signal would have been heard"
    assert tasks.read == 0
    assert len(left.surplus) == 2 * 6399 and not left.begun
    turns = 0
    stage = Stage()
    config = config_of(samples=4)
    pool = WorkerPool(config.workers, stage.ask)
    await pool.start(4)

    class Records:
        async def add_states(self, states: Any) -> None: ...
        async def append(self, result: Any) -> None: ...

    progress = Progress(Console(file=io.StringIO()))
    coordinator = Coordinator(config, pool, Records(), progress, "run", "m")
    await coordinator.run(plan.units_in_turns(left.done | left.surplus), 4)
    over = True
    await counting
    await pool.close()
    assert turns >= 6400 / 64
    assert tasks.read <= 64, "only what is not done is read"
    assert len(stage.ended) == 4


def test_begun_groups_are_told_as_before() -> None:
    plan = Plan(config_of(samples=4, keep=2), Tasks(3), "r")
    assert plan.begun(set()) == ({}, set())
    units = [
        [unit[0].episode_id for unit in units if unit] for units in (plan.units(), plan.units_in_turns())
    ]
    assert units[0] == units[1] and len(units[0]) == 12
