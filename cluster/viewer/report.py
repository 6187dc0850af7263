"""`kumite view --export`: the pages of a run in one file that opens without a server."""

import base64
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import Any, cast

from cluster.dataset.durable import replacing
from cluster.errors import ConfigError
from cluster.viewer.episode_query import Query
from cluster.viewer.injections import AGENTDOJO_SUITES
from cluster.viewer.library import LARGEST_PAGE, Library, OpenRun
from cluster.viewer.server import DIST, replace_non_finite
from cluster.viewer.state_tree import Node
from cluster.viewer.token_sequences import describe_sequences

_MAX_PAIRED_RUNS = 6
"""Runs of which a report compares any two."""
_LOAD_SCRIPT = 'window.KUMITE_REPORT = JSON.parse(document.getElementById("report").textContent);'


def write_report(places: Sequence[str], file: Path, filters: Sequence[str]) -> int:
    """Writes runs and their episodes into one HTML file.

    Args:
        places: Run folders, URIs, and folders of runs.
        file: The HTML file; one that is there is replaced.
        filters: Which episodes, as the page's filters.

    Returns:
        How many episodes are in it.

    Raises:
        ConfigError: More episodes are selected than one file can hold, a filter does not fit, a place holds
            no run, or the file cannot be written.
    """
    AGENTDOJO_SUITES.wait()
    library = Library(places)
    answers: dict[str, Any] = {"runs": [run.describe() for run in library.runs]}
    count = 0
    for run in library.runs:
        count += _add_run_answers(answers, run, Query(filters=tuple(filters)))
    _add_comparisons(answers, library)
    try:
        with replacing(file.absolute()) as temporary:
            temporary.write_text(_render_html(answers), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--export {file} cannot be written: {error.strerror}") from error
    return count


def _add_run_answers(answers: dict[str, Any], run: OpenRun, query: Query) -> int:
    page = run.page(query, 0, LARGEST_PAGE)
    if page["total"] > LARGEST_PAGE:
        raise ConfigError(
            f"{page['total']:,} episodes of {run.place} are selected, and a report holds {LARGEST_PAGE}: "
            'select fewer, as in --episodes "reward<1"'
        )
    base = f"runs/{run.key}"
    answers[base] = run.overview()
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
    return len(ids)


def _add_comparisons(answers: dict[str, Any], library: Library) -> None:
    """Adds what compares the runs: all together, and any two of a few."""
    keys = [run.key for run in library.runs]
    chosen: list[Sequence[str]] = [] if len(keys) < 2 else [keys]
    if len(keys) <= _MAX_PAIRED_RUNS:
        chosen += permutations(keys, 2)
    for own in dict.fromkeys(map(tuple, chosen)):
        with suppress(ConfigError):  # they have no task in common
            answers[f"compare/{'/'.join(own)}"] = library.compare(own)


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
