"""The episodes of a run as a list: what `kumite show --failed` and `--where` print."""

from typing import Any

from cluster.observe.printing import render_table


def render_episode_list(rows: list[dict[str, Any]], width: int | None) -> list[str]:
    """A row per episode: its id and task, never cut, then reward and why it failed.

    Args:
        rows: See `cluster.dataset.conditions.iterate_rows`.
        width: The terminal's columns; None in a pipe.
    """
    count = f"{len(rows):,} episode{'' if len(rows) == 1 else 's'}"
    if not rows:
        return [count]
    columns = {
        "episode_id": [row["episode_id"] for row in rows],
        "sample": [str(row["sample_index"]) for row in rows],
        "status": [row["status"] for row in rows],
        "reward": [_format_number(row["reward"]) for row in rows],
        "task": [row["task_id"] for row in rows],
    }
    if not any(row["sample_index"] for row in rows):
        del columns["sample"]
    if len({row["status"] for row in rows}) == 1:
        del columns["status"]
        count += f", all {rows[0]['status']}"
    if all(row["reward"] is None for row in rows):
        del columns["reward"]
    if any(row["error"] for row in rows):
        columns["error"] = [_shorten_error(row["error"]) for row in rows]
    table = render_table(columns, width, right=("reward", "sample"), is_last_whole="error" not in columns)
    return [*table, count]


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _shorten_error(error: dict[str, Any] | None) -> str:
    return f"{error['stage']}, {error['type']}: {error['message']}" if error else ""
