"""Which episode of one run belongs to which of another."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.dataset.conditions import iterate_rows
from cluster.dataset.manifest import load_manifest
from cluster.errors import ConfigError

_COMPARED_COLUMNS = (
    "episode_id",
    "task_id",
    "sample_index",
    "environment",
    "suite",
    "user_task",
    "injection_task",
    "attack",
    "status",
    "reward",
    "metrics",
    "policy_version",
)

Row = dict[str, Any]
Key = Callable[[Row], Hashable | None]


@dataclass(frozen=True)
class LoadedRun:
    """The episode rows of a run, without their conversations."""

    name: str
    """What it is called in the comparison."""
    rows: list[Row]


def load_rows(name: str, folder: Path) -> LoadedRun:
    """The episodes of a run.

    Raises:
        ConfigError: No episode of it has ended.
        ManifestError: The folder holds no run.
    """
    load_manifest(folder)
    rows = [{key: row.get(key) for key in _COMPARED_COLUMNS} for row in iterate_rows(folder)]
    if not rows:
        raise ConfigError(f"compare: no episode of {name} has ended yet")
    return LoadedRun(name, rows)


def _label_key(*names: str) -> Key:
    def key(row: Row) -> Hashable | None:
        if row["suite"] is None:
            return None
        return (*(row[name] for name in names), row["sample_index"])

    return key


_TASK_LABELS = ("suite", "user_task", "injection_task")
_PAIRING_KEYS: dict[str, Key] = {
    "episode_id": lambda row: row["episode_id"],
    "task_id and sample_index": lambda row: (row["task_id"], row["sample_index"]),
    "suite, tasks, attack and sample_index": _label_key(*_TASK_LABELS, "attack"),
    "suite, tasks and sample_index": _label_key(*_TASK_LABELS),
}
"""What two runs may be paired by, the strictest first."""


def pair_episodes(first: LoadedRun, second: LoadedRun) -> tuple[str, list[tuple[Row, Row]]]:
    """The pairs of two runs, by the strictest key that pairs as many episodes as any other.

    An id depends on environment, split, task and sample, and in AgentDojo the task's id names the attack and
    what it calls the model: runs that differ in these have ids that differ, and are paired by their labels.

    Returns:
        What they are paired by, and the pairs.

    Raises:
        ConfigError: No episode of one has its like in the other.
    """
    best: tuple[str, list[tuple[Row, Row]]] = ("", [])
    for name, key in _PAIRING_KEYS.items():
        left, right = _index_rows(first.rows, key), _index_rows(second.rows, key)
        pairs = [(row, right[each]) for each, row in left.items() if each in right]
        if len(pairs) > len(best[1]):
            best = (name, pairs)
    if not best[1]:
        raise ConfigError(
            f"compare: no episode of {first.name} has its like in {second.name}: the one played "
            f"{_describe_example(first)}, the other {_describe_example(second)}; give runs of the same tasks"
        )
    return best


def _index_rows(rows: list[Row], key: Key) -> Mapping[Hashable, Row]:
    """Rows by a key; none of those that share one."""
    found: dict[Hashable, Row] = {}
    twice: set[Hashable] = set()
    for row in rows:
        name = key(row)
        if name is None:
            continue
        if name in found:
            twice.add(name)
        found[name] = row
    return {name: row for name, row in found.items() if name not in twice}


def _describe_example(run: LoadedRun) -> str:
    row = run.rows[0]
    return f"{row['task_id']!r} of {row['environment']}, sample {row['sample_index']}"
