"""Conditions on episodes, as `kumite show --where` takes them: `column op value and …`."""

import difflib
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from cluster.dataset.schemas import EPISODES
from cluster.dataset.shards import iterate_episodes
from cluster.errors import ConfigError

_HEAVY_COLUMNS = ("messages", "tool_schemas", "initial_state_patch")
"""Columns that no condition is about: they are most of a run's bytes."""
COLUMNS = tuple(name for name in EPISODES.names if name not in _HEAVY_COLUMNS)
"""Columns that a row of `iterate_rows` has."""
_TERM_PATTERN = re.compile(r"""\s*([\w.]+)\s*(==|!=|<=|>=|=|<|>|~)\s*("[^"]*"|'[^']*'|[^\s"']\S*)\s*""")
_AND = re.compile(r"and\b", re.IGNORECASE)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": lambda held, given: str(given) in str(held),
}
_SYNTAX_HELP = 'give COLUMN OP VALUE, joined by "and", such as "status = failed and error.stage = policy"'


@dataclass(frozen=True)
class Condition:
    """One comparison."""

    column: str
    """A column, a field inside one (`error.kind`), or a metric's name."""
    op: str
    """`=`, `==`, `!=`, `<`, `<=`, `>`, `>=`, or `~`: the text has the value in it."""
    value: Any
    """What it is compared with; None for `null`."""

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether an episode is so. A null is equal to `null` only, and not more or less than anything."""
        held = value_of(row, self.column)
        if held is None or self.value is None:
            return {"=": held is self.value, "==": held is self.value, "!=": held is not self.value}.get(
                self.op, False
            )
        given = self.value
        if isinstance(held, str) and self.op != "~":
            given = str(given)
        try:
            return bool(_COMPARISONS[self.op](held, given))
        except TypeError:
            return False


def parse_conditions(text: str) -> list[Condition]:
    """The conditions of a `--where`.

    Raises:
        ConfigError: It is not made of them, or names no column.
    """
    conditions: list[Condition] = []
    place = 0
    while True:
        term = _TERM_PATTERN.match(text, place)
        if term is None:
            rest = text[place:].strip() or "nothing"
            raise ConfigError(f"--where {text!r}: {rest!r} is no comparison; {_SYNTAX_HELP}")
        name, op, value = term.groups()
        conditions.append(Condition(name, op, _parse_value(value)))
        place = term.end()
        if place == len(text):
            return conditions
        joined = _AND.match(text, place)
        if joined is None:
            raise ConfigError(f"--where {text!r}: {text[place:]!r} is not joined by `and`; {_SYNTAX_HELP}")
        place = joined.end()


def iterate_rows(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The episodes of a run without their conversations.

    Raises:
        ManifestError: The folder holds no run.
        JournalCorrupt: The journal is damaged.
    """
    for table in iterate_episodes(run_dir, COLUMNS):
        for row in table.to_pylist():
            row["metrics"] = json.loads(row.get("metrics") or "{}")
            yield row


def matching_rows(run_dir: Path, conditions: list[Condition]) -> list[dict[str, Any]]:
    """The episodes for which all conditions hold.

    Raises:
        ConfigError: A condition names what no episode has.
    """
    found: list[dict[str, Any]] = []
    metrics: set[str] = set()
    for row in iterate_rows(run_dir):
        metrics |= row["metrics"].keys()
        if all(condition.holds(row) for condition in conditions):
            found.append(row)
    for condition in conditions:
        _check_column(condition.column, metrics)
    return found


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """What an episode has in a column, in a field inside one, or as a metric; None where it has none."""
    held: Any = row
    for part in column.split("."):
        held = cast(Mapping[str, Any], held).get(part) if isinstance(held, Mapping) else None
    if held is None and column not in row:
        held = cast(Mapping[str, Any], row["metrics"]).get(column)
    return held


def _check_column(column: str, metrics: set[str]) -> None:
    fields = {name for field in EPISODES if field.name in COLUMNS for name in _column_names(field)}
    known = sorted({*fields, *metrics, *(f"metrics.{name}" for name in metrics)})
    if column in known:
        return
    close = difflib.get_close_matches(column, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
    raise ConfigError(f"--where: no episode of this run has {column!r}{hint}")


def _column_names(field: Any) -> Iterator[str]:
    yield field.name
    for index in range(getattr(field.type, "num_fields", 0)):
        yield f"{field.name}.{field.type.field(index).name}"


def _parse_value(text: str) -> Any:
    if text[0] in "\"'":
        return text[1:-1]
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, str | int | float | bool) else text
