"""The bundled shell tasks: what each has, how they are selected, and that their data are always the same."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from workers.environments.shell import dataset as shell_dataset
from workers.environments.shell.dataset import TaskSelection, load_cards, make_rows, make_shell_task
from workers.errors import EnvironmentLoadError

pytestmark = pytest.mark.slow

NAMES = list(load_cards())
MADE_UP = [name for name in NAMES if (shell_dataset._FOLDER / name / "generate.py").exists()]


def test_there_are_enough_tasks_of_every_kind() -> None:
    kinds = Counter(card.kind for card in load_cards().values())
    assert kinds["write"] >= 12 and kinds["fix"] >= 9 and kinds["find"] >= 9
    difficulties = Counter(card.difficulty for card in load_cards().values())
    assert min(difficulties[level] for level in ("easy", "medium", "hard")) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_task_is_whole(name: str) -> None:
    task = make_shell_task(name, 0)
    assert name.startswith(f"{task.card.kind}-")
    assert task.card.instruction.strip()
    assert task.tests.count("def test_") >= (1 if task.card.kind == "find" else 3)
    assert task.files or task.card.kind == "write"
    assert len(json.dumps(task.files)) < 4 << 20
    assert task.solution.calls and task.solution.message.strip()
    turns = task.solution.turns()
    assert [len(turn["tool_calls"]) for turn in turns] == [1] * (len(turns) - 1) + [0]
    assert len(turns) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_put_into_the_workspace_gives_the_tests_away(name: str) -> None:
    task = make_shell_task(name, 0)
    visible = json.dumps(task.files) + task.card.instruction
    for line in task.tests.splitlines():
        if line.startswith("def test_"):
            assert line.removeprefix("def ").partition("(")[0] not in visible.replace("test_billing", "")
    for path in (file["path"] for file in task.files):
        assert Path(path).name not in ("tests.py", "solution.toml", "generate.py", "task.toml")


@pytest.mark.parametrize("name", MADE_UP)
def test_another_seed_is_another_task(name: str) -> None:
    one, other = make_shell_task(name, 0), make_shell_task(name, 1)
    assert one.files != other.files and one.expected != other.expected
    assert (one.tests, one.solution, one.card) == (other.tests, other.solution, other.card)


def test_made_up_data_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib, runpy, sys\n"
        "from random import Random\n"
        "for path in sys.argv[1:]:\n"
        "    made = runpy.run_path(path)['generate'](Random('x'))\n"
        "    print(path, hashlib.sha256(repr(made).encode()).hexdigest())"
    )
    paths = [str(shell_dataset._FOLDER / name / "generate.py") for name in MADE_UP]
    said = [
        subprocess.run(
            [sys.executable, "-c", code, *paths],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == len(MADE_UP)


def test_rows_are_in_order_and_say_nothing_of_tests_and_answers() -> None:
    found = make_rows(TaskSelection(), "be good")
    assert [row["info"]["name"] for row in found] == sorted(NAMES)
    assert [row["example_id"] for row in found] == list(range(len(NAMES)))
    for row in found:
        assert row["prompt"][0] == {"role": "system", "content": "be good"}
        assert row["prompt"][1]["content"] == load_cards()[row["info"]["name"]].instruction.strip()
        assert row["answer"] == ""
        assert set(row["info"]) == {"task_id", "name", "seed", "kind", "difficulty"}


def test_tasks_are_selected_by_name_kind_and_difficulty() -> None:
    def names(**selection: object) -> list[str]:
        return [row["info"]["name"] for row in make_rows(TaskSelection.model_validate(selection), "")]

    assert names(tasks=["write-justify", "fix-retry"]) == ["fix-retry", "write-justify"]
    assert all(name.startswith("fix-") for name in names(kinds=["fix"]))
    assert set(names(difficulty=["hard"])) == {
        n for n, card in load_cards().items() if card.difficulty == "hard"
    }
    assert names(tasks=["write-justify", "fix-retry"], kinds=["write"]) == ["write-justify"]


def test_another_seed_gives_other_task_ids() -> None:
    assert make_rows(TaskSelection(tasks=["fix-retry"]), "")[0]["info"]["task_id"] == "fix-retry"
    assert make_rows(TaskSelection(tasks=["fix-retry"], seed=7), "")[0]["info"]["task_id"] == "fix-retry/7"


def test_selection_of_what_is_not_there_says_what_is() -> None:
    with pytest.raises(
        EnvironmentLoadError, match=r"args\.tasks: there is no task 'fix-it'; there are find-"
    ):
        make_rows(TaskSelection(tasks=["fix-it"]), "")
    with pytest.raises(EnvironmentLoadError, match="leave no task to play"):
        make_rows(TaskSelection(tasks=["fix-retry"], kinds=["write"]), "")
