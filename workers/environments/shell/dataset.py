"""The bundled shell tasks: what each has in its folder under `tasks/`, and which a config selects.

A task's folder holds

- `task.toml`: its kind, difficulty and instruction, and perhaps the image that it is played in;
- `files/`: what lies in the workspace when it begins;
- `generate.py`, where its data are made up from a seed: `generate(random) -> (files, expected)`;
- `tests.py`: the hidden tests, functions `test_*(subject)`; see `sandbox_images/shell/subject.py`;
- `solution.toml`: the oracle's tool calls, one a turn, and its last words.

Only the instruction and the files ever reach the sandbox before the policy's last turn.
"""

import base64
import runpy
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from workers.environments.arguments import check_distinct
from workers.errors import EnvironmentLoadError
from workers.sandbox.task_images import IMAGE_KEY
from workers.settings import Settings

Kind = Literal["write", "fix", "find"]
Difficulty = Literal["easy", "medium", "hard"]

_FOLDER = Path(__file__).parent / "tasks"
_Model = TypeVar("_Model", bound=Settings)


class TaskSelection(Settings):
    """Which tasks: the part of `environment.args` that names them."""

    tasks: list[str] | None = None
    """Tasks to play, by name. Null: all."""
    folder: str | None = None
    """A folder of tasks of your own, each a folder as `kumite init task` writes it, in place of the bundled
    ones; relative to the config. Null: the bundled ones."""
    kinds: list[Kind] = Field(default=["write", "fix", "find"], min_length=1)
    """`write`: code that must pass hidden tests. `fix`: files that are broken. `find`: answers that are
    in logs or data."""
    difficulty: list[Difficulty] = Field(default=["easy", "medium", "hard"], min_length=1)
    """Difficulties to play."""
    seed: int = Field(default=0, ge=0)
    """Seeds the data of those tasks that have made-up ones. Another seed is another task."""

    _distinct = field_validator("tasks", "kinds", "difficulty")(check_distinct)


class TaskCard(Settings):
    """A task's `task.toml`."""

    kind: Kind
    difficulty: Difficulty
    instruction: str
    image: str | None = Field(default=None, min_length=1)
    """The image that this task is played in. None: the run's."""


class SolutionCall(Settings):
    """One tool call of the oracle."""

    tool: str
    arguments: dict[str, Any]


class Solution(Settings):
    """A task's `solution.toml`."""

    calls: list[SolutionCall]
    message: str

    def turns(self) -> list[dict[str, Any]]:
        """The oracle's turns, as the oracle policy takes them."""
        return [
            *(
                {"content": "", "tool_calls": [{"name": call.tool, "arguments": call.arguments}]}
                for call in self.calls
            ),
            {"content": self.message, "tool_calls": []},
        ]


class ShellTask(Settings):
    """All there is to a task."""

    name: str
    card: TaskCard
    files: list[dict[str, str]]
    """What is put into the workspace: `path`, and `text` or `base64`."""
    tests: str
    """Source of the hidden tests."""
    expected: Any
    """The answers to made-up data, as the hidden tests know them."""
    solution: Solution


@cache
def load_cards(tasks_folder: str | None = None) -> Mapping[str, TaskCard]:
    """All tasks' cards by name, in the order of names.

    Args:
        tasks_folder: Where they are. None: the bundled ones.
    """
    folders = sorted(path.parent for path in _task_folder(tasks_folder).glob("*/task.toml"))
    return {folder.name: _read_toml(TaskCard, folder / "task.toml") for folder in folders}


def _task_folder(tasks_folder: str | None) -> Path:
    return _FOLDER if tasks_folder is None else Path(tasks_folder)


@cache
def make_shell_task(name: str, seed: int, tasks_folder: str | None = None) -> ShellTask:
    """A task by its name, its data made up from the seed.

    Args:
        name: The task's folder.
        seed: Of its data.
        tasks_folder: Where that is. None: the bundled ones.

    Raises:
        EnvironmentLoadError: The task's folder is not as it should be.
    """
    folder = _task_folder(tasks_folder) / name
    contents = {
        path.relative_to(folder / "files").as_posix(): path.read_bytes()
        for path in sorted((folder / "files").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected: Any = None
    if (folder / "generate.py").exists():
        made, expected = runpy.run_path(str(folder / "generate.py"))["generate"](Random(f"{name}/{seed}"))
        contents |= {path: text.encode() if isinstance(text, str) else text for path, text in made.items()}
    return ShellTask(
        name=name,
        card=load_cards(tasks_folder)[name],
        files=[_make_file(path, content) for path, content in contents.items()],
        tests=_read_text(folder / "tests.py"),
        expected=expected,
        solution=_read_toml(Solution, folder / "solution.toml"),
    )


def select_cards(selection: TaskSelection) -> dict[str, TaskCard]:
    """Cards of the selected tasks by name, in the order of names.

    Raises:
        EnvironmentLoadError: The selection names a task that there is not, or selects none.
    """
    known = load_cards(selection.folder)
    if not known:
        raise EnvironmentLoadError(
            f"environment.args.folder: there are no tasks in {selection.folder}: each is a folder in it with "
            "a task.toml, as `kumite init task NAME` writes one"
        )
    for name in selection.tasks or []:
        if name not in known:
            raise EnvironmentLoadError(
                f"environment.args.tasks: there is no task {name!r}; there are {', '.join(known)}"
            )
    selected = {
        name: card
        for name, card in known.items()
        if (selection.tasks is None or name in selection.tasks)
        and card.kind in selection.kinds
        and card.difficulty in selection.difficulty
    }
    if not selected:
        raise EnvironmentLoadError(
            "environment.args: tasks, kinds and difficulty leave no task to play; kinds is "
            f"{selection.kinds}, difficulty {selection.difficulty}"
        )
    return selected


def make_rows(selection: TaskSelection, system_message: str) -> list[dict[str, Any]]:
    """Dataset rows of the selected tasks, in the order of names.

    Raises:
        EnvironmentLoadError: The selection names a task that there is not, or selects none.
    """
    return [
        {
            "example_id": index,
            "prompt": [
                {"role": "system", "content": system_message},
                {"role": "user", "content": card.instruction.strip()},
            ],
            "answer": "",
            "info": {
                "task_id": name if selection.seed == 0 else f"{name}/{selection.seed}",
                "name": name,
                "seed": selection.seed,
                "kind": card.kind,
                "difficulty": card.difficulty,
                **({} if selection.folder is None else {"folder": selection.folder}),
                **({} if card.image is None else {IMAGE_KEY: card.image}),
            },
        }
        for index, (name, card) in enumerate(select_cards(selection).items())
    ]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentLoadError(f"{path}: {error}") from error


def _read_toml(model: type[_Model], path: Path) -> _Model:
    try:
        return model.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise EnvironmentLoadError(f"{path}: {error}") from error


def _make_file(path: str, content: bytes) -> dict[str, str]:
    try:
        return {"path": path, "text": content.decode()}
    except UnicodeDecodeError:
        return {"path": path, "base64": base64.b64encode(content).decode()}
