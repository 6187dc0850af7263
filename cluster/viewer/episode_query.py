"""Which episodes are to be seen: search, filters, order and pages, over the index of a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.dataset.arrow import Table, pa, pc
from cluster.errors import ConfigError
from cluster.viewer.episode_index import EpisodeIndex, IndexPart

_FILTER = re.compile(r"([^!<>=~]+)(!=|>=|<=|=|<|>|~)(.*)", re.DOTALL)
_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_KEPT_SEARCHES = 50_000
"""Searches of a part of a run that are remembered."""
PASSING_REWARD = 1.0
"""Reward from which a sample counts as passed."""


@dataclass(frozen=True)
class Query:
    """A selection of episodes, as the page's address has it."""

    search: str = ""
    """Text that a message must have in it, whatever its case."""
    filters: tuple[str, ...] = field(default=())
    """`column`, one of `= != < <= > >= ~`, value; `~` finds a part of a text; an empty value is null."""
    sort: str = ""
    """The column to sort by; a minus before it turns the order. Empty: as recorded."""
    tags: tuple[str, ...] = field(default=())
    """Tags of which an episode must have all."""


class MessageSearch:
    """Finds text in the messages of a run; what was found in a part that does not change is remembered."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], set[str]] = {}

    def find(self, index: EpisodeIndex, text: str) -> set[str]:
        """The ids of the episodes that have this text in a message, reasoning or tool call."""
        pattern = text.lower()

        def of_part(index: EpisodeIndex, part: IndexPart) -> set[str]:
            key = (f"{index.place}:{part.key}", pattern)
            if key not in self._found:
                if len(self._found) >= _KEPT_SEARCHES:
                    self._found.clear()
                self._found[key] = _search_part(index, part, pattern)
            return self._found[key]

        return index.scan(of_part)


def _search_part(index: EpisodeIndex, part: IndexPart, pattern: str) -> set[str]:
    found: set[str] = set()
    for table in index.columns(part, ("episode_id", "messages")):
        messages = table["messages"].combine_chunks()
        rows = pc.list_parent_indices(messages)
        flat = pc.list_flatten(messages)
        for name in ("content", "reasoning_content"):
            hits = pc.match_substring(pc.struct_field(flat, name), pattern, ignore_case=True)
            found |= _ids_of_rows(table, rows.filter(pc.fill_null(hits, False)))
        calls = pc.struct_field(flat, "tool_calls")
        owners = rows.take(pc.list_parent_indices(calls))
        functions = pc.struct_field(pc.list_flatten(calls), "function")
        for name in ("name", "arguments"):
            hits = pc.match_substring(pc.struct_field(functions, name), pattern, ignore_case=True)
            found |= _ids_of_rows(table, owners.filter(pc.fill_null(hits, False)))
    return found


def _ids_of_rows(table: Table, rows: Any) -> set[str]:
    return set(table["episode_id"].take(rows.unique()).to_pylist())


def select_episodes(
    index: EpisodeIndex, query: Query, search: MessageSearch, tags: Mapping[str, Sequence[str]]
) -> Table:
    """The rows of the index that a query selects, in its order.

    Args:
        index: The run's.
        query: The selection.
        search: Finds text in messages.
        tags: The tags of each episode that has some.

    Raises:
        ConfigError: A filter or the order names a column that there is not, or a value that does not fit.
    """
    table = index.table()
    for text in query.filters:
        table = table.filter(_filter_mask(table, text))
    if query.search:
        table = _keep_ids(table, search.find(index, query.search))
    if query.tags:
        wanted = set(query.tags)
        table = _keep_ids(table, {key for key, own in tags.items() if wanted <= set(own)})
    if query.sort:
        name, order = query.sort.removeprefix("-"), "descending" if query.sort[:1] == "-" else "ascending"
        check_column(table, name)
        places = pc.sort_indices(table, sort_keys=[(name, order)])
        table = table.take(places)
    return table


def group_by_task(table: Table) -> Table:
    """One row per task: samples, failures, mean and deviation of the reward, the share that passed."""
    passed = pc.greater_equal(table["reward"], PASSING_REWARD).cast(pa.float64())
    failed = pc.equal(table["status"], "failed").cast(pa.int64())
    wanted = table.select(["task_id", "reward", "turns", "seconds_total"])
    wanted = wanted.append_column("pass_rate", passed).append_column("failed", failed)
    groups = wanted.group_by("task_id", use_threads=False).aggregate(
        [
            ("task_id", "count"),
            ("failed", "sum"),
            ("reward", "mean"),
            ("reward", "stddev"),
            ("pass_rate", "mean"),
            ("turns", "mean"),
            ("seconds_total", "mean"),
        ]
    )
    names = {
        "task_id_count": "samples",
        "failed_sum": "failed",
        "reward_stddev": "reward_deviation",
        "pass_rate_mean": "pass_rate",
        "reward_mean": "reward",
        "turns_mean": "turns",
        "seconds_total_mean": "seconds_total",
    }
    return groups.rename_columns([names.get(name, name) for name in groups.column_names])


def check_column(table: Table, name: str) -> None:
    """Sees that there is such a column.

    Raises:
        ConfigError: There is not.
    """
    if name not in table.column_names:
        raise ConfigError(f"there is no column {name!r}; there are {', '.join(table.column_names)}")


def _keep_ids(table: Table, ids: set[str]) -> Table:
    return table.filter(pc.is_in(table["episode_id"], pa.array(sorted(ids), pa.string())))


def _filter_mask(table: Table, text: str) -> Any:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ConfigError(f"the filter {text!r} is not a column, one of = != < <= > >= ~, and a value")
    name, operator, value = match[1].strip(), match[2], match[3].strip()
    check_column(table, name)
    column = table[name]
    if operator == "~":
        return pc.fill_null(pc.match_substring(column.cast(pa.string()), value, ignore_case=True), False)
    if not value:
        if operator not in ("=", "!="):
            raise ConfigError(f"the filter {text!r} has no value: after = or != that is null, and else none")
        return pc.is_null(column) if operator == "=" else pc.is_valid(column)
    try:
        scalar = pa.scalar(_parse_value(value, column.type), column.type)
    except ValueError:
        raise ConfigError(f"the filter {text!r}: {name} is {column.type}, and {value!r} is not") from None
    return pc.fill_null(_COMPARE[operator](column, scalar), operator == "!=")


def _parse_value(text: str, kind: Any) -> object:
    if pa.types.is_boolean(kind):
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if pa.types.is_integer(kind):
        return int(text)
    return float(text) if pa.types.is_floating(kind) else text
