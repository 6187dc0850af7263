"""`kumite tasks`: what a config selects, without starting anything."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.config import RunConfig
from cluster.observe.rates import Mode, mode_of
from cluster.plan import load_plan, task_id_of
from workers.lost_episodes import prompt_of
from workers.records import Record, info_of, label_text, labels_of
from workers.settings import Split

_PROMPT_SHOWN = 72
"""Characters of a prompt that the table shows."""


class Task(Record):
    """One task that a config selects."""

    task_id: str
    """The task, unique within the environment."""
    suite: str | None
    """AgentDojo: the suite."""
    mode: Mode | None
    """AgentDojo: `benign`, `attack` or `injection`."""
    user_task: str | None
    """AgentDojo: the user task; null for an injection task alone."""
    injection_task: str | None
    """AgentDojo: the injection task; null for a user task alone."""
    attack: str | None
    """AgentDojo: the attack."""
    difficulty: str | None
    """How hard it is held to be, where its environment says."""
    prompt: str
    """What the user asks for."""


class Selection(Record):
    """All that a config selects."""

    environment: str
    """The environment's id."""
    split: Split
    """Which of its tasks: `environment.split`."""
    tasks: list[Task]
    """The tasks, in the order in which they are played."""
    samples: int
    """Episodes of each task."""
    episodes: int
    """Episodes in all."""


def select(config: RunConfig) -> Selection:
    """Reads what a config selects.

    Raises:
        ConfigError: Its environment does not load, or it selects nothing.
    """
    _, plan = load_plan(config, "tasks")
    tasks = [_task(row) for row in plan.rows()]
    return Selection(
        environment=config.environment.name,
        split=config.environment.split,
        tasks=tasks,
        samples=config.samples,
        episodes=plan.episodes,
    )


def render(selection: Selection) -> RenderableType:
    """Lays a selection out for rich: a table of tasks, and how many there are."""
    columns: dict[str, Sequence[str | None]] = {
        "suite": [task.suite for task in selection.tasks],
        "user task": [task.user_task for task in selection.tasks],
        "injection": [task.injection_task for task in selection.tasks],
        "attack": [task.attack for task in selection.tasks],
        "difficulty": [task.difficulty for task in selection.tasks],
    }
    shown = {name: values for name, values in columns.items() if any(values)}
    if "suite" not in shown:
        shown = {"task": [task.task_id for task in selection.tasks], **shown}
    shown["prompt"] = [_cut(task.prompt) for task in selection.tasks]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*(Text(value or "") for value in row))
    return Group(table, Text("\n".join(_counts(selection))))


def _task(row: dict[str, Any]) -> Task:
    labels = labels_of(row).model_dump()
    return Task(
        task_id=task_id_of(row),
        mode=mode_of(**labels),
        difficulty=label_text(info_of(row).get("difficulty")),
        prompt=_prompt(row),
        **labels,
    )


def _prompt(row: dict[str, Any]) -> str:
    """The user's words in a row's prompt."""
    said = [message.content for message in prompt_of(row) if message.role == "user"]
    return "\n".join(text for text in said if text)


def _cut(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _PROMPT_SHOWN else f"{line[: _PROMPT_SHOWN - 1]}…"


def _counts(selection: Selection) -> list[str]:
    """How many tasks of each suite and mode, and how many in all."""
    kinds = Counter((task.suite, task.mode) for task in selection.tasks if task.suite is not None)
    lines = [f"{suite}, {mode}: {count:,} tasks" for (suite, mode), count in kinds.items()]
    total = f"{len(selection.tasks):,} tasks × {selection.samples:,} = {selection.episodes:,} episodes"
    total += f", environment.split {selection.split}"
    return [*lines, total]
