"""What a dataset's rows may look like, and what is said of those that do not."""

from pathlib import Path
from typing import Any

import pytest

from cluster.config.file import load_config
from cluster.errors import ConfigError
from cluster.plan.plan import Plan, load_plan
from cluster.plan.resume import order_seed
from cluster.plan.tasks import select_tasks
from tests.helpers.loop_engine import Tasks, config_of

ENVIRONMENT = """
import verifiers as vf
from datasets import Dataset, Features, Value

def load_environment(tasks=0, **info):
    features = {"question": Value("string"), "answer": Value("string"), "example_id": Value("int64")}
    questions = [f"q{i}" for i in range(tasks)]
    columns = {"question": questions, "answer": ["a"] * tasks, "example_id": list(range(tasks))}
    if info:
        features["info"], columns["info"] = Value("string"), [info["text"]] * tasks
    dataset = Dataset.from_dict(columns, features=Features(features))
    return vf.SingleTurnEnv(dataset=dataset, rubric=vf.Rubric())
"""


def written(folder: Path, args: str, more: str = "") -> Path:
    (folder / "rows_environment.py").write_text(ENVIRONMENT)
    config = folder / "config.yaml"
    config.write_text(
        f"environment: {{id: rows_environment.py, args: {args}}}\npolicy: {{kind: oracle}}\n{more}"
    )
    return config


def test_an_empty_dataset_with_a_column_of_ids_selects_no_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="they select no task at all"):
        select_tasks(load_config(written(tmp_path, "{tasks: 0}")))


@pytest.mark.parametrize("text", ["easy", "", "[1]", "3", '"x"', "{"])
def test_info_that_is_text_but_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    config = load_config(written(tmp_path, f"{{tasks: 2, text: {text!r}}}"))
    with pytest.raises(ConfigError, match=r"`info` of row 0 of .*rows_environment\.py's dataset is the text"):
        select_tasks(config)


@pytest.mark.parametrize("info", [[1], 3, "[]"])
def test_info_that_is_no_object_is_named(info: Any) -> None:
    tasks = Tasks(3)
    tasks.data[1]["info"] = info
    with pytest.raises(
        ConfigError, match=r"`info` of row 1 of e's dataset is .*give a dictionary, or the text"
    ):
        Plan(config_of(), tasks, "r")


@pytest.mark.parametrize("info", [None, {}, "{}", '{"task_id": "x"}'])
def test_info_that_is_an_object_its_text_or_nothing_is_taken(info: Any) -> None:
    tasks = Tasks(3)
    tasks.data[1]["info"] = info
    assert Plan(config_of(), tasks, "r").tasks == 3


@pytest.mark.parametrize(
    "more", ["shuffle: true\n", "shuffle: true\nlimit: 5\nname: mine\n", "seed: 3\nshuffle: true\n"]
)
def test_tasks_are_listed_in_the_order_of_the_run_that_follows(tmp_path: Path, more: str) -> None:
    config = load_config(written(tmp_path, "{tasks: 50}", more))
    shown = [task.task_id for task in select_tasks(config).tasks]
    _, plan = load_plan(config, "mine-20260101-000000", order_seed(tmp_path / "run", config))
    assert [str(row["example_id"]) for row in plan.rows()] == shown
