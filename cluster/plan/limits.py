"""Which tasks a `limit` takes, and what it leaves out."""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

from cluster.observe.rates import episode_mode
from workers.environments.base import Rows
from workers.records import labels_of

_MAX_ROWS_READ = 20_000
"""Tasks up to which a note says what kinds were left out: it reads every row."""


def limit_order(rows: Rows, order: Sequence[int], limit: int, by: Literal["order", "kind"]) -> list[int]:
    """The places of the tasks that a limit takes, in the order in which they are played.

    Args:
        rows: All tasks.
        order: Their places, in the order in which they would be played.
        limit: How many are taken.
        by: `order`: the first ones. `kind`: one of each kind in turn, until there are enough.
    """
    if by == "order":
        return list(order[:limit])
    kinds: dict[str, list[int]] = {}
    for place, index in enumerate(order):
        kinds.setdefault(task_kind(rows[index]), []).append(place)
    in_turn = [place for places in zip_longest(*kinds.values()) for place in places if place is not None]
    return [order[place] for place in sorted(in_turn[:limit])]


def describe_left_out(rows: Rows, taken: Sequence[int], limit: int | None) -> str | None:
    """What a user is told of the tasks that `limit` left out; None where it left out none.

    Args:
        rows: All tasks.
        taken: The places of those that are played.
        limit: The limit.
    """
    if limit is None or len(taken) == len(rows):
        return None
    said = f"limit {limit:,} takes {len(taken):,} of {len(rows):,} tasks"
    if len(rows) > _MAX_ROWS_READ:
        return said
    there = Counter(task_kind(rows[index]) for index in range(len(rows)))
    missing = there - Counter(dict.fromkeys((task_kind(rows[index]) for index in taken), len(rows)))
    if not missing or set(there) == {""}:
        return said
    named = ", ".join(f"{kind} ({there[kind]:,})" for kind in missing)
    return f"{said}; it leaves out all of: {named}. `limit_by: kind` takes from each in turn"


def task_kind(row: dict[str, Any]) -> str:
    """AgentDojo's suite and mode; the member that plays it in an `EnvGroup`; else the empty text."""
    labels = labels_of(row).model_dump()
    mode = episode_mode(**labels)
    if mode is not None:
        return f"{labels['suite']} {mode}"
    task = row.get("task")
    return task if isinstance(task, str) and task != "default" else ""
