"""`kumite view --export`: the pages of a run in one file that opens without a server."""

import base64
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice, permutations
from pathlib import Path
from typing import Any, TypeVar, cast

from cluster.compare.pairs import LoadedRun, load_rows
from cluster.dataset.durable import replacing
from cluster.errors import ConfigError
from cluster.viewer.compared_runs import compare_sides, select_version
from cluster.viewer.episode_query import Query
from cluster.viewer.injections import AGENTDOJO_SUITES
from cluster.viewer.library import LARGEST_PAGE, Library, OpenRun
from cluster.viewer.server import DIST, replace_non_finite
from cluster.viewer.state_tree import Node
from cluster.viewer.token_sequences import describe_sequences

_MAX_PAIRED = 6
"""Runs, or versions of one run's weights, of which a report compares any two."""
_TAG = "tag="
_T = TypeVar("_T")
_LOAD_SCRIPT = 'window.KUMITE_REPORT = JSON.parse(document.getElementById("report").textContent);'


def write_report(places: Sequence[str], file: Path, filters: Sequence[str]) -> int:
    """Writes runs and their episodes into one HTML file.

    Args:
        places: Run folders, URIs, and folders of runs.
        file: The HTML file; one that is there is replaced.
        filters: Which episodes, as the page's filters; `tag=NAME` selects those with a tag.

    Returns:
        How many episodes are in it.

    Raises:
        ConfigError: More episodes are selected than one file can hold, a filter does not fit, a place holds
            no run, or the file cannot be written.
    """
    AGENTDOJO_SUITES.wait()
    library = Library(places)
    answers: dict[str, Any] = {"runs": [run.describe() for run in library.runs]}
    tags = tuple(text.removeprefix(_TAG) for text in filters if text.startswith(_TAG))
    query = Query(filters=tuple(text for text in filters if not text.startswith(_TAG)), tags=tags)
    held = {run.key: _add_run_answers(answers, run, query) for run in library.runs}
    _add_comparisons(answers, library, held)
    try:
        with replacing(file.absolute()) as temporary:
            temporary.write_text(_render_html(answers), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--export {file} cannot be written: {error.strerror}") from error
    return sum(map(len, held.values()))


def _add_run_answers(answers: dict[str, Any], run: OpenRun, query: Query) -> set[str]:
    """Adds a run's pages, and those of the episodes that a query selects; returns the ids of these."""
    page = run.page(query, 0, LARGEST_PAGE)
    if page["total"] > LARGEST_PAGE:
        raise ConfigError(
            f"{page['total']:,} episodes of {run.place} are selected, and a report holds {LARGEST_PAGE}: "
            'select fewer, as in --episodes "reward<1"'
        )
    base = f"runs/{run.key}"
    overview = run.overview()
    answers[base] = {**overview, "disagreeing": _lead_to_held(overview["disagreeing"], page["rows"])}
    answers[f"{base}/injections"] = run.injections()
    answers[f"{base}/tools"] = run.tool_use()
    answers[f"{base}/episodes"] = page
    ids = [row["episode_id"] for row in page["rows"]]
    for place, episode_id in enumerate(ids):
        transcript = run.transcript(episode_id)
        note = run.notes.read().get(episode_id)
        around = {"before": ids[place - 1] if place else None, "after": (ids[place + 1 :] or [None])[0]}
        own = f"{base}/episodes/{episode_id}"
        samples = [sample for sample in run.samples(episode_id) if sample["episode_id"] in ids]
        answers[own] = {
            **transcript.head(),
            "neighbours": around,
            "samples": samples,
            "note": note.model_dump() if note else {"tags": [], "text": ""},
        }
        answers[f"{own}/steps"] = transcript.steps(0, transcript.step_count, run.texts())
        answers[f"{own}/sequences"] = describe_sequences(transcript.episode, run.texts())
        if transcript.history is not None:
            if transcript.head()["has_files"]:
                for step in (None, *range(transcript.step_count)):
                    key = f"{own}/files" if step is None else f"{own}/files?step={step}"
                    answers[key] = transcript.file_changes(step)
            for step in range(-1, transcript.step_count):
                tree = _drop_unchanged(transcript.history.tree(step))
                answers[f"{own}/state?step={step}"] = {"step": step, "tree": tree}
    return set(ids)


def _lead_to_held(tasks: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tasks, each with an episode to begin from that the report has, if it has one of the task."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["task_id"], row["episode_id"])
    return [{**task, "episode_id": first.get(task["task_id"], task["episode_id"])} for task in tasks]


def _add_comparisons(answers: dict[str, Any], library: Library, held: dict[str, set[str]]) -> None:
    """Adds what compares the runs, all together and any two of a few; and so the versions of each run."""
    keys = list(held)
    chosen: list[tuple[str, ...]] = [] if len(keys) < 2 else [tuple(keys)]
    if len(keys) <= _MAX_PAIRED:
        chosen += permutations(keys, 2)
    for key in keys:
        versions = [row["key"] for row in answers[f"runs/{key}"]["versions"]]
        sides = [f"{key}@{version}" for version in _spread_evenly(versions, _MAX_PAIRED)]
        chosen += permutations(sides, 2)
    loaded: dict[str, LoadedRun] = {}
    for own in dict.fromkeys(chosen):
        for name in {side.partition("@")[0] for side in own} - loaded.keys():
            run = library.run(name)
            loaded[name] = load_rows(run.place, run.index.folder)
        with suppress(ConfigError):  # they have no task in common
            sides = [select_version(loaded[name], version) for name, _, version in map(_split_side, own)]
            found = compare_sides(sides, None)
            answers[f"compare/{'/'.join(own)}"] = {**found, "rows": _rows_held(found["rows"], own, held)}


def _split_side(side: str) -> tuple[str, str, str]:
    return side.partition("@")


def _rows_held(
    rows: list[dict[str, Any]], sides: Sequence[str], held: dict[str, set[str]]
) -> list[dict[str, Any]]:
    """The rows of which the report has the episodes, so that a click shows them."""
    own = [held[_split_side(side)[0]] for side in sides]
    whole = (
        row
        for row in rows
        if all(one is None or one["episode_id"] in ids for one, ids in zip(row["sides"], own, strict=True))
    )
    return list(islice(whole, LARGEST_PAGE))


def _spread_evenly(values: Sequence[_T], most: int) -> list[_T]:
    """At most so many of the values, the first and the last included, at even distances."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def _drop_unchanged(node: Node) -> Node:
    """A tree whose unchanged parts are only counted: with them, a file would hold the state once per step."""
    if "same" in node:
        value = node["same"]
        if isinstance(value, dict | list) and value:
            return {"same": f"as before ({len(cast('list[Any]', value))} entries)"}
        return node
    for kind in ("object", "array"):
        if kind in node:
            return {kind: [[key, _drop_unchanged(child)] for key, child in node[kind]]}
    return node


def _render_html(answers: dict[str, Any]) -> str:
    # A text in it that ends a script would end this one.
    report = json.dumps(replace_non_finite(answers), ensure_ascii=False, allow_nan=False).replace(
        "<", "\\u003c"
    )
    script = (DIST / "assets" / "page.js").read_text(encoding="utf-8").replace("</script", "<\\/script")
    style = (DIST / "assets" / "page.css").read_text(encoding="utf-8")
    allowed = " ".join(f"'sha256-{_script_digest(text)}'" for text in (_LOAD_SCRIPT, script))
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Kumite</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<div id="page"></div>\n<script type="application/json" id="report">{report}</script>\n'
        f'<script>{_LOAD_SCRIPT}</script>\n<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def _script_digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
