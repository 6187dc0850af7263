"""Runs side by side: how each differs from the first, and the episodes in which they do."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster.compare.comparison import compare_loaded
from cluster.compare.pairs import LoadedRun, Row
from cluster.errors import ConfigError

_COMPARED = ("status", "reward", "metrics")


def select_version(loaded: LoadedRun, version: str) -> LoadedRun:
    """The episodes of a run that one version of the weights began.

    The samples of a task that a version played are numbered anew, so that those of another version are
    paired with them in order.

    Args:
        loaded: The run's episodes.
        version: The version. Empty: all episodes.

    Raises:
        ConfigError: No episode was begun by this version, or it is no number.
    """
    if not version:
        return loaded
    if not version.isdecimal():
        raise ConfigError(f"compare: the version {version!r} of {loaded.name} should be a whole number")
    own = [row for row in loaded.rows if row["policy_version"] == int(version)]
    if not own:
        raise ConfigError(f"compare: no episode of {loaded.name} was begun by version {version}")
    own.sort(key=lambda row: (row["task_id"], row["sample_index"]))
    before: Counter[str] = Counter()
    rows: list[Row] = []
    for row in own:
        rows.append({**row, "sample_index": before[row["task_id"]]})
        before[row["task_id"]] += 1
    return LoadedRun(f"{loaded.name}@{version}", rows)


def compare_sides(sides: Sequence[LoadedRun], most: int | None) -> dict[str, Any]:
    """Each run beside the first one, and the episodes that are not the same in all.

    Args:
        sides: Two runs or more.
        most: Episodes that are listed. None: all that differ.

    Returns:
        `runs`, their names; `pairs`, a `RunPair` for each but the first; `rows`, the episodes that differ,
        with the largest change of the reward first, each with one of `sides` per run, null where that run
        has no such episode; `differing`, how many there are.

    Raises:
        ConfigError: There are fewer than two runs, or one has no episode in common with the first.
    """
    if len(sides) < 2:
        raise ConfigError("compare: choose two runs or more")
    first, *others = sides
    pairs: list[dict[str, Any]] = []
    matches: dict[str, list[Row | None]] = {}
    for place, other in enumerate(others):
        pair, rows = compare_loaded(first, other)
        pairs.append(pair.model_dump())
        for one, match in rows:
            matches.setdefault(one["episode_id"], [one, *([None] * len(others))])[place + 1] = match
    differing = [_describe_row(row) for row in matches.values() if _differs(row)]
    differing.sort(key=lambda row: (-abs(row["difference"] or 0.0), row["task_id"], row["sample_index"]))
    return {
        "runs": [side.name for side in sides],
        "pairs": pairs,
        "differing": len(differing),
        "rows": differing[:most],
    }


def _differs(row: Sequence[Row | None]) -> bool:
    first = row[0]
    assert first is not None
    return any(other is not None and any(first[name] != other[name] for name in _COMPARED) for other in row)


def _describe_row(row: Sequence[Row | None]) -> dict[str, Any]:
    """An episode in all runs, by what tells them apart."""
    first = row[0]
    assert first is not None
    rewards = [other["reward"] for other in row[1:] if other is not None and other["reward"] is not None]
    changes = [] if first["reward"] is None else [reward - first["reward"] for reward in rewards]
    wanted = ("episode_id", *_COMPARED)
    return {
        "task_id": first["task_id"],
        "sample_index": first["sample_index"],
        "sides": [None if one is None else {name: one[name] for name in wanted} for one in row],
        "difference": max(changes, key=abs) if changes else None,
    }
