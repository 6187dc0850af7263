"""`kumite tasks`: what a config selects, without starting anything."""

from collections import Counter
from typing import Any

from cluster.config import RunConfig
from cluster.observe.printing import Line, render_table
from cluster.observe.rates import Mode, episode_mode
from cluster.plan.plan import load_plan, row_task_id
from workers.lost_episodes import prompt_messages
from workers.records import Record, info_of, label_text, labels_of
from workers.settings import Split


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
    left_out: str | None = None
    """What `limit` left out, in words."""


def select_tasks(config: RunConfig) -> Selection:
    """Reads what a config selects.

    Raises:
        ConfigError: Its environment does not load, or it selects nothing.
    """
    _, plan = load_plan(config, "tasks", shuffled_by=config.name)
    tasks = [_make_task(row) for row in plan.rows()]
    return Selection(
        environment=config.environment.name,
        split=config.environment.split,
        tasks=tasks,
        samples=config.samples,
        episodes=plan.episodes,
        left_out=plan.left_out,
    )


def render_selection(selection: Selection, width: int | None) -> list[Line]:
    """Lays a selection out: a table of tasks, their ids first and whole, and how many there are.

    Args:
        selection: What is selected.
        width: The terminal's columns. None: nothing is cut, as in a pipe.
    """
    tasks = selection.tasks
    columns: dict[str, list[str]] = {
        "suite": [task.suite or "" for task in tasks],
        "user task": [task.user_task or "" for task in tasks],
        "injection": [task.injection_task or "" for task in tasks],
        "attack": [task.attack or "" for task in tasks],
        "difficulty": [task.difficulty or "" for task in tasks],
    }
    shown: dict[str, list[str]] = {"task": [task.task_id for task in tasks]}
    notes: list[str] = []
    for name, values in columns.items():
        if not any(values):
            continue
        if len(set(values)) == 1 and len(tasks) > 1:
            notes.append(f"{name} {values[0]}")
        elif not all(_names_label(value, task.task_id) for value, task in zip(values, tasks, strict=True)):
            shown[name] = values
    shown["prompt"] = [" ".join(task.prompt.split()) for task in tasks]
    lines = [Line(f"all tasks: {', '.join(notes)}", style="dim")] if notes else []
    head, *rows = render_table(shown, width)
    lines += [Line(head, style="bold"), *map(Line, rows), Line("")]
    return lines + [Line(count) for count in _describe_counts(selection)]


def render_cell_counts(selections: dict[str, Selection], width: int | None) -> list[Line]:
    """How many tasks and episodes each run of a matrix has."""
    columns = {
        "run": list(selections),
        "tasks": [f"{len(each.tasks):,}" for each in selections.values()],
        "episodes": [f"{each.episodes:,}" for each in selections.values()],
    }
    head, *rows = render_table(columns, width, right=("tasks", "episodes"))
    total = sum(each.episodes for each in selections.values())
    return [Line(head, style="bold"), *map(Line, rows), Line(f"{total:,} episodes in {len(selections)} runs")]


def _names_label(label: str, task_id: str) -> bool:
    """Whether an id says a label already, as AgentDojo's ids do."""
    return not label or label in task_id.split("/")


def _make_task(row: dict[str, Any]) -> Task:
    labels = labels_of(row).model_dump()
    return Task(
        task_id=row_task_id(row),
        mode=episode_mode(**labels),
        difficulty=label_text(info_of(row).get("difficulty")),
        prompt=_prompt_text(row),
        **labels,
    )


def _prompt_text(row: dict[str, Any]) -> str:
    """The user's words in a row's prompt."""
    said = [message.content for message in prompt_messages(row) if message.role == "user"]
    return "\n".join(text for text in said if text)


def _describe_counts(selection: Selection) -> list[str]:
    """How many tasks of each suite and mode, and how many in all."""
    kinds = Counter((task.suite, task.mode) for task in selection.tasks if task.suite is not None)
    lines = [
        f"{suite}, {mode}: {count:,} task{'' if count == 1 else 's'}"
        for (suite, mode), count in kinds.items()
    ]
    plural = "" if len(selection.tasks) == 1 else "s"
    total = f"{len(selection.tasks):,} task{plural} × {selection.samples:,} = {selection.episodes:,} episodes"
    total += f", environment.split {selection.split}"
    return [*lines, total, *([selection.left_out] if selection.left_out else [])]
