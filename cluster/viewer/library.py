"""What the viewer holds of the runs that it shows, and what it answers about them."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.compare.comparison import compare_loaded
from cluster.compare.pairs import Row, load_rows
from cluster.errors import ConfigError
from cluster.observe.token_texts import TokenTexts, find_tokenizer_folder
from cluster.viewer.episode_index import EpisodeIndex
from cluster.viewer.episode_query import MessageSearch, Query, check_column, group_by_task, select_episodes
from cluster.viewer.notes import Note, Notes
from cluster.viewer.run_figures import compute_figures, read_series
from cluster.viewer.run_list import describe_run, find_runs, run_state
from cluster.viewer.transcript import Transcript

_KEPT_TRANSCRIPTS = 6
LARGEST_PAGE = 500
"""Rows of a page of episodes."""


class NotFound(Exception):
    """There is no such run, episode or text."""


class OpenRun:
    """One run that is shown.

    Args:
        key: Its id in addresses.
        place: Its folder, or URI.
    """

    def __init__(self, key: str, place: str) -> None:
        self.key = key
        self.place = place
        self.index = EpisodeIndex(place)
        self.notes = Notes(place)
        self._search = MessageSearch()
        self._transcripts: OrderedDict[tuple[str, int], Transcript] = OrderedDict()
        self._figures: tuple[int, dict[str, Any]] | None = None
        self._texts: TokenTexts | None = None
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """Describes the run for its line in the list of runs."""
        return describe_run(self.key, self.place, self.index.folder)

    def overview(self) -> dict[str, Any]:
        """Returns what the run's page shows."""
        table = self.index.table()
        if self._figures is None or self._figures[0] != self.index.version:
            self._figures = self.index.version, compute_figures(table)
        manifest = self.index.manifest()
        return {
            "key": self.key,
            "place": self.place,
            "run_id": manifest.run_id,
            "created": manifest.created.timestamp(),
            "planned": manifest.planned,
            "cancelled": manifest.cancelled,
            "wall_seconds": manifest.wall_seconds,
            "state": run_state(self.index.folder, manifest, table.num_rows),
            "config": _shorten_text(self.index.folder / "config.yaml"),
            "series": read_series(self.index.folder),
            **self._figures[1],
        }

    def progress(self) -> dict[str, Any]:
        """What tells a page whether there is more to see."""
        table = self.index.table()
        state = run_state(self.index.folder, self.index.manifest(), table.num_rows)
        return {"version": self.index.version, "episodes": table.num_rows, "state": state}

    def page(self, query: Query, first: int, count: int, *, by_task: bool = False) -> dict[str, Any]:
        """A page of the episodes, or tasks, that a query selects.

        Raises:
            ConfigError: The query names a column that there is not, or has a value that does not fit.
        """
        notes = self.notes.read()
        order = Query(sort=query.sort) if by_task else query
        plain = Query(query.search, query.filters, "", query.tags) if by_task else query
        beginning = None
        if query == Query() and not by_task:
            beginning = self.index.beginning(first + min(count, LARGEST_PAGE))
        if beginning is not None:
            table, total = beginning
        else:
            table = select_episodes(
                self.index, plain, self._search, {key: n.tags for key, n in notes.items()}
            )
            total = table.num_rows
        if by_task:
            table = group_by_task(table)
            if order.sort:
                name, down = order.sort.removeprefix("-"), order.sort[:1] == "-"
                check_column(table, name)
                table = table.sort_by([(name, "descending" if down else "ascending")])
            total = table.num_rows
        rows = table.slice(first, min(count, LARGEST_PAGE)).to_pylist()
        if not by_task:
            for row in rows:
                note = notes.get(row["episode_id"])
                row["tags"] = note.tags if note else []
        return {
            "total": total,
            "first": first,
            "columns": [
                [name, _column_kind(str(table.schema.field(name).type))] for name in table.column_names
            ],
            "rows": rows,
        }

    def neighbours(self, query: Query, episode_id: str) -> dict[str, str | None]:
        """The episodes before and after one in a query's order."""
        tags = {key: note.tags for key, note in self.notes.read().items()}
        ids = select_episodes(self.index, query, self._search, tags)["episode_id"]
        place = ids.index(episode_id).as_py() if len(ids) else -1
        if place < 0:
            return {"before": None, "after": ids[0].as_py() if len(ids) else None}
        return {
            "before": ids[place - 1].as_py() if place > 0 else None,
            "after": ids[place + 1].as_py() if place + 1 < len(ids) else None,
        }

    def transcript(self, episode_id: str) -> Transcript:
        """One episode.

        Raises:
            NotFound: The run has none of this id.
        """
        key = (episode_id, self.index.version)
        with self._lock:
            if key in self._transcripts:
                self._transcripts.move_to_end(key)
                return self._transcripts[key]
        record = self.index.read_record(episode_id)
        if record is None:
            raise NotFound(f"{self.place} has no episode {episode_id!r}")
        made = Transcript(record, self.index.folder)
        with self._lock:
            self._transcripts[key] = made
            while len(self._transcripts) > _KEPT_TRANSCRIPTS:
                self._transcripts.popitem(last=False)
        return made

    def samples(self, episode_id: str) -> list[dict[str, Any]]:
        """The samples of an episode's task, itself included."""
        task = self.transcript(episode_id).episode.task_id
        page = self.page(Query(filters=(f"task_id={task}",), sort="sample_index"), 0, 100)
        wanted = ("episode_id", "sample_index", "status", "reward", "turns")
        return [{name: row[name] for name in wanted} for row in page["rows"]]

    def texts(self) -> TokenTexts:
        """The texts of the policy's tokens."""
        if self._texts is None:
            self._texts = TokenTexts(find_tokenizer_folder(self.index.folder))
        return self._texts

    def note(self, episode_id: str, note: Note) -> None:
        """Notes something of an episode.

        Raises:
            NotFound: The run has none of this id.
        """
        self.transcript(episode_id)
        self.notes.write(episode_id, note)


class Library:
    """The runs that the viewer shows.

    Args:
        places: Run folders, URIs, and folders of runs.

    Raises:
        ConfigError: One of them is neither.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self._places = list(places)
        self._runs: dict[str, OpenRun] = {}
        self._lock = threading.Lock()
        self._find_runs()

    @property
    def runs(self) -> list[OpenRun]:
        """The runs, those included that have begun meanwhile in a folder of runs."""
        self._find_runs()
        with self._lock:
            return list(self._runs.values())

    def run(self, key: str) -> OpenRun:
        """One run.

        Raises:
            NotFound: There is none of this key.
        """
        with self._lock:
            found = self._runs.get(key)
        if found is None:
            raise NotFound(f"there is no run {key!r}; there are {', '.join(self._runs)}")
        return found

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """What the page of two runs shows: their differences, and the pairs of episodes that differ.

        Raises:
            NotFound: There is no such run.
            ConfigError: They have no episode in common.
        """
        runs = [self.run(key) for key in (first, second)]
        loaded = [load_rows(run.place, run.index.folder) for run in runs]
        pair, rows = compare_loaded(loaded[0], loaded[1])
        differing = [_describe_pair(a, b) for a, b in rows if _differs(a, b)]
        differing.sort(key=lambda row: (-abs(row["difference"] or 0.0), row["task_id"], row["sample_index"]))
        shown = differing[:LARGEST_PAGE]
        return {**pair.model_dump(), "differing": len(differing), "rows": shown}

    def _find_runs(self) -> None:
        try:
            found = find_runs(self._places)
        except ConfigError:
            if not self._runs:
                raise
            return  # the last one has gone; its page says so
        with self._lock:
            self._runs = {key: self._runs.get(key) or OpenRun(key, place) for key, place in found.items()}


def _differs(first: Row, second: Row) -> bool:
    return any(first[name] != second[name] for name in ("status", "reward", "metrics"))


def _describe_pair(first: Row, second: Row) -> dict[str, Any]:
    """Two episodes of a task, by what tells them apart."""
    sides = [
        {name: row[name] for name in ("episode_id", "status", "reward", "metrics")} for row in (first, second)
    ]
    rewards = first["reward"], second["reward"]
    return {
        "task_id": first["task_id"],
        "sample_index": first["sample_index"],
        "first": sides[0],
        "second": sides[1],
        "difference": None if None in rewards else rewards[1] - rewards[0],
    }


def _column_kind(arrow_type: str) -> str:
    if arrow_type.startswith(("int", "double", "float")):
        return "number"
    return "truth" if arrow_type == "bool" else "text"


def _shorten_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
