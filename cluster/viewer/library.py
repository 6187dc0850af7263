"""What the viewer holds of the runs that it shows, and what it answers about them."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.compare.pairs import LoadedRun, load_rows
from cluster.dataset.arrow import pc
from cluster.errors import ConfigError
from cluster.observe.summary import Summary
from cluster.observe.token_texts import TokenTexts, find_tokenizer_folder
from cluster.viewer.compared_runs import compare_sides, select_version
from cluster.viewer.episode_index import METRIC, EpisodeIndex
from cluster.viewer.episode_query import MessageSearch, Query, check_column, group_by_task, select_episodes
from cluster.viewer.injection_table import describe_injections
from cluster.viewer.notes import Note, Notes
from cluster.viewer.run_figures import compute_figures, read_series, summarise_table
from cluster.viewer.run_list import describe_run, find_runs, kept_summary, run_state
from cluster.viewer.tool_use import count_tool_calls
from cluster.viewer.transcript import Transcript

_KEPT_TRANSCRIPTS = 6
_MAX_SAMPLES = 100
"""Samples of a task that an episode's page names."""
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
        self._kept: dict[str, tuple[int, Any]] = {}
        self._texts: TokenTexts | None = None
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """Describes the run for its line in the list of runs."""

        def summarise() -> dict[str, Any]:
            return self._keep(
                "line", lambda: summarise_table(self.index.table(), self.index.manifest(), folder)
            )

        folder = self.index.folder
        return describe_run(self.key, self.place, folder, summarise)

    def brief(self) -> dict[str, Any]:
        """Returns the head of the run's page, which is there before the run's index is."""
        folder, manifest = self.index.folder, self.index.manifest()
        summary = kept_summary(folder, manifest)
        episodes = sum(shard.episodes for shard in manifest.shards)
        return {
            "run_id": manifest.run_id,
            "place": self.place,
            "created": manifest.created.timestamp(),
            "planned": manifest.planned,
            "wall_seconds": manifest.wall_seconds,
            "state": run_state(folder, manifest, episodes),
            "episodes": episodes,
            "finished": None if summary is None else summary.finished,
            "means": {} if summary is None else _name_means(summary),
        }

    def overview(self) -> dict[str, Any]:
        """Returns what the run's page shows."""
        table = self.index.table()
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
            **self._keep("figures", lambda: compute_figures(table)),
        }

    def injections(self) -> dict[str, Any]:
        """The injections of the run's attacks; see `describe_injections`."""
        return self._keep("injections", lambda: describe_injections(self.index))

    def tool_use(self) -> list[dict[str, Any]]:
        """The calls of each tool; see `count_tool_calls`."""
        return self._keep("tools", lambda: count_tool_calls(self.index))

    def _keep(self, name: str, compute: Callable[[], Any]) -> Any:
        """What was computed of the episodes as they are now; computed once."""
        self.index.table()
        version = self.index.version
        kept = self._kept.get(name)
        if kept is None or kept[0] != version:
            kept = self._kept[name] = version, compute()
        return kept[1]

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
        table = self.index.table()
        own = table.filter(pc.equal(table["task_id"], task)).sort_by("sample_index")
        wanted = ["episode_id", "sample_index", "status", "reward", "turns"]
        return own.select(wanted).slice(0, _MAX_SAMPLES).to_pylist()

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

    def compare(self, keys: Sequence[str]) -> dict[str, Any]:
        """What the page of two or more runs shows; see `compare_sides`.

        Args:
            keys: Of the runs. `KEY@3` is what version 3 of the weights played in a run.

        Raises:
            NotFound: There is no such run.
            ConfigError: One has no episode in common with the first.
        """
        loaded: dict[str, LoadedRun] = {}
        sides: list[LoadedRun] = []
        for key in keys:
            name, _, version = key.partition("@")
            if name not in loaded:
                run = self.run(name)
                loaded[name] = load_rows(run.place, run.index.folder)
            sides.append(select_version(loaded[name], version))
        return compare_sides(sides, LARGEST_PAGE)

    def _find_runs(self) -> None:
        try:
            found = find_runs(self._places)
        except ConfigError:
            if not self._runs:
                raise
            return  # the last one has gone; its page says so
        with self._lock:
            self._runs = {key: self._runs.get(key) or OpenRun(key, place) for key, place in found.items()}


def _name_means(summary: Summary) -> dict[str, Any]:
    """A summary's means by the names of the index's columns."""
    return {
        name if name == "reward" else f"{METRIC}{name}": mean.model_dump()
        for name, mean in summary.means.items()
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
