"""The runs that a page shows: those named on the command line, and those in the folders named there."""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.dataset.manifest import Manifest, load_manifest, manifest_path
from cluster.dataset.places import is_uri
from cluster.dataset.run_record import load_run_record
from cluster.errors import ConfigError
from cluster.observe.summary import Summary

RunState = Literal["live", "done", "cut off"]
_MAX_DEPTH = 2
"""Levels of folders below one that is named in which runs are looked for."""
_IDLE_SECONDS = 60.0
"""Seconds without a write after which a run that has not ended counts as cut off."""


def find_runs(places: Sequence[str]) -> dict[str, str]:
    """The places of runs by a short id that stays the same; newest first where a folder of them was named.

    Args:
        places: Run folders, URIs, and folders of runs.

    Raises:
        ConfigError: One of them is neither a run nor a folder with runs.
    """
    found: list[str] = []
    for place in places:
        if is_uri(place) or manifest_path(Path(place)).exists():
            found.append(place if is_uri(place) else str(Path(place).resolve()))
            continue
        below = _find_runs_below(Path(place).resolve())
        if not below:
            raise ConfigError(
                f"{place} holds no run: there is no manifest.json in it, or in a folder below it; "
                "give a run's folder, its URI, or a folder of runs"
            )
        found += below
    return {run_key(place): place for place in dict.fromkeys(found)}


def _find_runs_below(folder: Path) -> list[str]:
    level, found = [folder], list[Path]()
    for _ in range(_MAX_DEPTH):
        level = [child for parent in level if parent.is_dir() for child in sorted(parent.iterdir())]
        level = [child for child in level if child.is_dir() and not child.name.startswith(".")]
        found += [child for child in level if manifest_path(child).exists()]
        level = [child for child in level if child not in found]
    return [
        str(run) for run in sorted(found, key=lambda run: manifest_path(run).stat().st_mtime, reverse=True)
    ]


def run_key(place: str) -> str:
    """A short id for a run's place; no character of it means something in the page's addresses."""
    name = re.sub(r"[^\w.-]", "-", place.rstrip("/").rpartition("/")[2], flags=re.ASCII)[:40]
    return f"{name}-{hashlib.blake2s(place.encode(), digest_size=3).hexdigest()}"


def run_state(run_dir: Path, manifest: Manifest, ended: int) -> RunState:
    """Whether a run is at work; nothing of it is touched to tell.

    Args:
        run_dir: Its folder.
        manifest: Its manifest.
        ended: Its episodes that have ended.
    """
    if manifest.planned is not None and ended + manifest.cancelled >= manifest.planned:
        return "done"
    try:
        record = load_run_record(run_dir)
    except ValueError:
        record = None
    if record is not None and record.sessions and record.sessions[-1].ended is not None:
        return "done" if manifest.planned is None else "cut off"
    files = [run_dir / "metrics.jsonl", run_dir / "manifest.json", *(run_dir / "journal").glob("*.jsonl")]
    newest = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return "live" if time.time() - newest < _IDLE_SECONDS else "cut off"


def describe_run(
    key: str, place: str, run_dir: Path, summarise: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What the list of runs says of one: its summary, its state, its policy.

    Args:
        key: The run's id in addresses.
        place: Its folder, or URI.
        run_dir: Its folder on this machine.
        summarise: Sums it up where it has left no summary of all its episodes; see `summarise_table`.
    """
    manifest = load_manifest(run_dir)
    kept = kept_summary(run_dir, manifest)
    summary = summarise() if kept is None else kept.model_dump()
    ended = summary["finished"] + summary["failed"]
    return {
        "key": key,
        "place": place,
        "name": place.rstrip("/").rpartition("/")[2],
        "state": run_state(run_dir, manifest, ended),
        "created": manifest.created.timestamp(),
        "policy": _describe_policy(run_dir),
        "summary": summary,
    }


def kept_summary(run_dir: Path, manifest: Manifest) -> Summary | None:
    """The summary that the run wrote at its end, where it sums up all episodes; None where it does not."""
    path = run_dir / "summary.json"
    try:
        if any((run_dir / "journal").glob("*.jsonl")):
            return None
        summary = Summary.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    ended = sum(shard.episodes for shard in manifest.shards)
    return summary if summary.finished + summary.failed == ended else None


def _describe_policy(run_dir: Path) -> str:
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        policy = config["policy"]
        return str(policy.get("model") or policy["kind"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return ""
