"""How often a run's policy called each tool, and how often that was an error."""

from typing import Any, cast

import numpy as np

from cluster.dataset.arrow import Table, pa, pc
from cluster.viewer.episode_index import EpisodeIndex

_MAX_TOOLS = 60
_COLUMNS = ("episode_id", "action", "tool_errors")
_MOST_CALLS = 2**31
"""More than the calls of a step: what a number by row and place counts rows in."""
_ERRORS = [("failed_count", "sum"), ("failed_sum", "sum")]


def count_tool_calls(index: EpisodeIndex) -> list[dict[str, Any]]:
    """The tools that a run's policy called, the most used first.

    Args:
        index: The run's.

    Returns:
        Of each tool: `name`, `calls`, `episodes` with a call of it, and `errors`; null where the environment
        does not tell errors.
    """
    counts: list[Table] = []
    for part in index.parts():
        own = [_calls_of(table) for table in index.step_columns(part, _COLUMNS)]
        if own:
            by_episode = pa.concat_tables(own).group_by(["name", "episode_id"])
            found = by_episode.aggregate([("failed", "count"), ("failed", "sum"), ("name", "count")])
            counts.append(_sum_by_name(found, [("name_count", "sum"), *_ERRORS, ("episode_id", "count")]))
    if not counts:
        return []
    names = {"name_count_sum": "calls", "failed_count_sum": "told", "failed_sum_sum": "errors"}
    parts = pa.concat_tables(counts)
    parts = parts.rename_columns([names.get(name, name) for name in parts.column_names])
    summed = _sum_by_name(parts, [(name, "sum") for name in parts.column_names if name != "name"])
    rows: list[dict[str, Any]] = summed.to_pylist()
    rows.sort(key=lambda row: (-row["calls_sum"], row["name"]))
    return [
        {
            "name": row["name"],
            "calls": row["calls_sum"],
            "episodes": row["episode_id_count_sum"],
            "errors": row["errors_sum"] or 0 if row["told_sum"] else None,
        }
        for row in rows[:_MAX_TOOLS]
    ]


def _sum_by_name(table: Table, columns: list[tuple[str, str]]) -> Table:
    return table.group_by("name").aggregate(columns)


def _calls_of(steps: Table) -> Table:
    """The calls of some steps: `episode_id`, `name`, and `failed`, null where the environment does not tell.

    A step's `tool_errors` are those of its calls, in order.
    """
    made = pc.struct_field(steps["action"].combine_chunks(), "tool_calls")
    errors = steps["tool_errors"].combine_chunks()
    owners, tellers = (pc.list_parent_indices(column).to_numpy() for column in (made, errors))
    keys, told = _places(owners), _places(tellers)
    at = cast(Any, np.searchsorted(told, keys))
    found = np.isin(keys, told)
    failed = pc.list_flatten(errors).cast(pa.int64()).take(pa.array(at, mask=~found))
    name = pc.struct_field(pc.struct_field(pc.list_flatten(made), "function"), "name")
    episodes = steps["episode_id"].take(pa.array(owners))
    return pa.table({"episode_id": episodes, "name": name, "failed": failed})


def _places(rows: Any) -> Any:
    """Of elements of lists, each with its list's row, in order: a number by row and by place in the list."""
    firsts = cast(Any, np.searchsorted(rows, rows, "left"))
    return rows.astype(np.int64) * _MOST_CALLS + (np.arange(len(rows)) - firsts)
