"""What a run's page shows: numbers with intervals, and the data of its plots."""

import json
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np

from cluster.dataset.arrow import Table, pc
from cluster.dataset.manifest import Manifest
from cluster.observe.cost import compute_cost, read_price
from cluster.observe.intervals import estimate_mean
from cluster.viewer.episode_index import METRIC
from cluster.viewer.episode_query import PASSING_REWARD, group_by_task
from workers.records import Timings

_MAX_BINS = 24
_MAX_POINTS = 400
"""Points of a series that a page gets."""
_MAX_TASKS = 10
"""Tasks that are named as those whose samples disagree most."""
_TAIL_BYTES = 16 * 2**20
_GROUPS = ("suite", "injection_task", "attack", "policy_version", "error_stage", "error_kind", "stop_reason")


def compute_figures(table: Table) -> dict[str, Any]:
    """Numbers and plots of these rows of a run's index."""
    finished = table.filter(pc.equal(table["status"], "finished"))
    metrics = [name for name in table.column_names if name.startswith(METRIC)]
    return {
        "episodes": table.num_rows,
        "finished": finished.num_rows,
        "means": {name: _mean_with_interval(finished, name) for name in ["reward", *metrics, "turns"]},
        "histograms": {
            name: _histogram(finished[name])
            for name in ("reward", "turns", "prompt_tokens", "completion_tokens", "seconds_total")
        },
        "stages": {stage: _quantiles(finished[f"seconds_{stage}"]) for stage in Timings.model_fields},
        "counts": {name: _value_counts(table[name]) for name in _GROUPS},
        "disagreeing": _disagreeing_tasks(finished),
        "versions": _means_by(finished, "policy_version", ["reward", *metrics]),
        "suites": _means_by(finished, "suite", ["reward", *metrics]),
        "heat": {
            name: _heat_map(finished, f"{METRIC}{name}")
            for name in ("attack_success", "utility")
            if f"{METRIC}{name}" in table.column_names
        },
    }


def summarise_table(table: Table, manifest: Manifest, run_dir: Path) -> dict[str, Any]:
    """What the list of runs says of one that has left no summary: of a run's summary, what that list shows.

    Args:
        table: The run's index.
        manifest: Its manifest.
        run_dir: Its folder.
    """
    finished = table.filter(pc.equal(table["status"], "finished"))
    names = [name for name in table.column_names if name.startswith(METRIC)]
    means = {
        name.removeprefix(METRIC): mean
        for name in ["reward", *names]
        if (mean := _mean_with_interval(finished, name)) is not None
    }
    tokens = {name: pc.sum(table[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens")}
    price, cost = read_price(run_dir), None
    if price is not None:
        passed = pc.sum(pc.greater_equal(finished["reward"], PASSING_REWARD)).as_py() or 0
        cached = pc.sum(table["cached_tokens"]).as_py()
        cost = compute_cost(price, **tokens, cached_tokens=cached, episodes=table.num_rows, passed=passed)
    return {
        "environment": table["environment"][0].as_py() if table.num_rows else None,
        "planned": manifest.planned,
        "finished": finished.num_rows,
        "failed": table.num_rows - finished.num_rows,
        "reward": means["reward"]["value"] if "reward" in means else None,
        "metrics": {name: mean["value"] for name, mean in means.items() if name != "reward"},
        "means": means,
        **tokens,
        "cost": None if cost is None else cost.model_dump(),
        "wall_seconds": manifest.wall_seconds,
    }


def _disagreeing_tasks(table: Table) -> list[dict[str, Any]]:
    """The tasks whose samples' rewards differ most, with an episode to begin from."""
    if len(table["task_id"].unique()) == table.num_rows:
        return []
    groups = group_by_task(table)
    groups = groups.filter(pc.greater(groups["reward_deviation"], 0.0))
    groups = groups.sort_by([("reward_deviation", "descending"), ("task_id", "ascending")])
    rows = groups.slice(0, _MAX_TASKS).to_pylist()
    for row in rows:
        place = pc.index(table["task_id"], row["task_id"]).as_py()
        row["episode_id"] = table["episode_id"][place].as_py()
    return rows


def _to_numbers(column: Any) -> Any:
    return column.drop_null().cast("double").to_numpy()


def _mean_with_interval(table: Table, name: str) -> dict[str, float] | None:
    """The mean of a column with its 95 % interval; see `estimate_mean`."""
    own = table.select([name, "task_id"]).filter(pc.is_valid(table[name]))
    found = estimate_mean(own[name].cast("double").to_numpy(), own["task_id"].to_numpy())
    return None if found is None else found.model_dump()


def _histogram(column: Any) -> dict[str, Any] | None:
    values = _to_numbers(column)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    distinct = np.unique(values)
    if distinct.size <= _MAX_BINS // 2:
        counts = [int((values == value).sum()) for value in distinct]
        return {"edges": [float(value) for value in distinct], "counts": counts}
    counts, edges = np.histogram(values, _MAX_BINS)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def _quantiles(column: Any) -> dict[str, float] | None:
    values = _to_numbers(column)
    if not values.size:
        return None
    low, middle, high = pc.quantile(values, q=[0.05, 0.5, 0.95]).to_pylist()
    return {"p5": low, "p50": middle, "p95": high, "mean": float(values.mean())}


def _value_counts(column: Any) -> list[list[Any]]:
    counts: list[dict[str, Any]] = column.drop_null().value_counts().to_pylist()
    found = [[row["values"], row["counts"]] for row in counts]
    return sorted(found, key=itemgetter(1), reverse=True)[:60]


def _means_by(table: Table, key: str, names: list[str]) -> list[dict[str, Any]]:
    """Means with intervals by the values of a column; empty where it has none."""
    values = sorted(table[key].drop_null().unique().to_pylist())
    rows: list[dict[str, Any]] = []
    for value in values[:200]:
        own = table.filter(pc.equal(table[key], value))
        means = {name: _mean_with_interval(own, name) for name in names}
        rows.append({"key": value, "episodes": own.num_rows, "means": means})
    return rows


def _heat_map(table: Table, metric: str) -> list[dict[str, Any]]:
    """The mean of a metric by suite, user task and injection task."""
    own = table.filter(pc.is_valid(table["injection_task"]))
    own = own.filter(pc.and_(pc.is_valid(own["user_task"]), pc.is_valid(own[metric])))
    if not own.num_rows:
        return []
    groups = own.group_by(["suite", "user_task", "injection_task"]).aggregate(
        [(metric, "mean"), (metric, "count")]
    )
    renamed = groups.rename_columns(
        [
            name.replace(f"{metric}_mean", "value").replace(f"{metric}_count", "episodes")
            for name in groups.column_names
        ]
    )
    return renamed.to_pylist()


def read_series(run_dir: Path) -> list[dict[str, Any]]:
    """The run's own time series, from `metrics.jsonl`: as many lines as a plot has use for."""
    try:
        with (run_dir / "metrics.jsonl").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    rows: list[dict[str, Any]] = []
    for line in lines[:: max(1, len(lines) // _MAX_POINTS)]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(cast(dict[str, Any], row))
    return rows
