"""A config with a `matrix`: one run for each combination of its values, one after the other."""

import itertools
import json
import re
import signal
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from cluster.config import RunConfig
from cluster.config.file import build_config, dump_config, read_fields
from cluster.dataset.durable import replacing
from cluster.dataset.manifest import manifest_path
from cluster.dataset.remote import is_uri
from cluster.dataset.run_folder import Target
from cluster.ending import Interrupted
from cluster.errors import ConfigError
from cluster.observe.printing import Line, render_table
from cluster.observe.summary import Summary
from cluster.plan.resume import resumable_config

CELLS = "cells"
"""Folder of a matrix's folder that holds the config of each of its runs."""


@dataclass(frozen=True)
class Cell:
    """One combination of a matrix's values."""

    name: str
    """Name of its run's folder: the values, by the last part of their keys."""
    config: RunConfig
    """What is played."""


def has_matrix(path: Path, overrides: Iterable[str] = ()) -> bool:
    """Whether a config has a `matrix`."""
    return read_fields(path, overrides).get("matrix") is not None


def load_cells(path: Path, overrides: Iterable[str] = ()) -> list[Cell]:
    """The runs of a config's matrix, in the order of its keys and values.

    Raises:
        ConfigError: The matrix is no mapping of dotted keys to lists, or a run's config is not right.
    """
    fields = read_fields(path, overrides)
    given: Any = fields.pop("matrix")
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"matrix: got {given!r}; give a mapping of dotted keys to lists of values")
    axes = cast(dict[Any, Any], given)
    for key, values in axes.items():
        if not isinstance(key, str) or not isinstance(values, list) or not values:
            raise ConfigError(f"matrix.{key}: got {values!r}; give a list of values to try")
    cells: list[Cell] = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        cells.append(Cell(_cell_name(chosen), build_config(path, _set_values(fields, chosen))))
    names = [cell.name for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"matrix: two runs would have the name {sorted(twice)[0]!r}; remove one of the values"
        )
    return cells


def run_cells(cells: Sequence[Cell], folder: Path, console: Console, retry_failed: bool) -> list[Summary]:
    """Plays the runs of a matrix, one after the other, on one Ray session and one policy.

    A run that has been begun is taken up again; one that has ended plays nothing more.

    Raises:
        Interrupted: A signal ended it; names the matrix's folder.
    """
    from cluster.parts import SharedPolicy
    from cluster.run import run

    summaries: list[Summary] = []
    with ExitStack() as stack:
        shared = stack.enter_context(SharedPolicy())
        for number, cell in enumerate(cells, 1):
            console.print(
                f"run {number} of {len(cells)}: {cell.name}", highlight=False, soft_wrap=True, markup=False
            )
            place = folder / cell.name
            if manifest_path(place).exists():
                target = Target.resumed(str(place), retry_failed)
                config = resumable_config(place, cell.config)
            else:
                target, config = Target.new(cell.config, str(place)), cell.config
            try:
                summaries.append(run(config, target, console, shared))
            except Interrupted as interrupted:
                number_of = signal.Signals(interrupted.exit_code - 128)
                raise Interrupted(number_of, str(folder)) from None
    return summaries


def write_cells(cells: Sequence[Cell], folder: Path) -> None:
    """Makes a matrix's folder, with the config of each of its runs.

    Raises:
        ConfigError: The folder is a URI, or is there and not empty.
    """
    if is_uri(str(folder)):
        raise ConfigError(f"matrix: its runs cannot be written to a URI, got {folder}; give a folder")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--out {folder}: it is not empty; give a new folder, or --resume {folder}")
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(cells):
        with replacing(folder / CELLS / f"{number:03d}.yaml") as temporary:
            temporary.write_text(dump_config(cell.config), encoding="utf-8")
    with replacing(folder / CELLS / "names.json") as temporary:
        temporary.write_text(json.dumps([cell.name for cell in cells]), encoding="utf-8")


def read_cells(folder: Path, overrides: Iterable[str] = ()) -> list[Cell] | None:
    """The runs of a matrix's folder; None where the folder is not a matrix's."""
    names = folder / CELLS / "names.json"
    if not names.is_file():
        return None
    given = list(overrides)
    files = [folder / CELLS / f"{number:03d}.yaml" for number in range(len(json.loads(names.read_text())))]
    configs = [build_config(file, read_fields(file, given)) for file in files]
    return [Cell(name, config) for name, config in zip(json.loads(names.read_text()), configs, strict=True)]


def render_matrix(cells: Sequence[Cell], summaries: Sequence[Summary], width: int | None) -> list[Line]:
    """One row for each run of a matrix."""

    def means(name: str) -> list[str]:
        return [_format_number(summary.metrics.get(name)) for summary in summaries]

    columns = {
        "run": [cell.name for cell in cells],
        "episodes": [f"{each.finished + each.failed:,}" for each in summaries],
        "failed": [f"{each.failed:,}" for each in summaries],
        "reward": [_format_number(each.reward) for each in summaries],
    }
    if any("utility" in each.metrics for each in summaries):
        columns |= {"utility": means("utility"), "attack success": means("attack_success")}
    head, *rows = render_table(columns, width, right=set(columns) - {"run"})
    return [Line(head, style="bold"), *map(Line, rows)]


def _format_number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell_name(chosen: dict[str, Any]) -> str:
    parts = [f"{key.rpartition('.')[2]}={_format_value(value)}" for key, value in chosen.items()]
    return re.sub(r"[^A-Za-z0-9._=,+-]", "_", ",".join(parts))[:200]


def _format_value(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _copy_values(value: Any) -> Any:
    """A copy of a section in which nothing is shared, as YAML's aliases are; values keep their types."""
    if isinstance(value, dict):
        return {key: _copy_values(inner) for key, inner in cast(dict[Any, Any], value).items()}
    if isinstance(value, list):
        return [_copy_values(inner) for inner in cast(list[Any], value)]
    return value


def _set_values(fields: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = _copy_values(fields)
    for key, value in chosen.items():
        *parents, last = key.split(".")
        place: Any = copy
        for parent in parents:
            below: Any = place.setdefault(parent, {})
            place = below
            if not isinstance(below, dict):
                raise ConfigError(f"matrix.{key}: {parent} is not a section of the config")
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return copy
