"""`kumite push`: a run as a dataset on the Hugging Face hub."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from cluster.dataset.conditions import iterate_rows
from cluster.dataset.journal import list_segments
from cluster.dataset.manifest import Manifest, load_manifest
from cluster.dataset.shards import uncompacted
from cluster.errors import ConfigError, RunError
from cluster.export.config import read_run_config
from cluster.export.dataset_card import make_dataset_card
from cluster.export.plots import histogram_svg, intervals_svg
from cluster.observe.summary import Summary, summarise_run

_FOLDERS = ("episodes", "steps", "states", "plots")
"""Folders of the repository that are as the run has them, once it is pushed."""


def push_run(run_dir: Path, repo: str, *, private: bool = False, licence: str = "unknown") -> str:
    """Puts episodes, steps and states of a run into a dataset on the hub, with a card, in one commit.

    A dataset of this name that is there already is brought to hold this run, and nothing of another.

    Args:
        run_dir: The run's folder; the run has ended in order.
        repo: `OWNER/NAME`, or a name of the user's own.
        private: Whether a dataset that is new is private.
        licence: The hub's identifier of the licence.

    Returns:
        The address of the dataset.

    Raises:
        ConfigError: The name is none, there is no token, or the run has episodes that are in no shard yet.
        RunError: The hub refuses it, or cannot be reached.
        ManifestError: The folder holds no run.
    """
    manifest = load_manifest(run_dir)
    files = _collect_files(run_dir, manifest)
    summary = summarise_run(run_dir)
    tables = {
        "episodes": sum(shard.episodes for shard in manifest.shards),
        "steps": sum(shard.steps for shard in manifest.shards),
        "states": sum(path.startswith("states/") for path in files),
    }
    tables = {name: count for name, count in tables.items() if count}
    plots = _make_plots(run_dir, summary)
    titles = {file: title for file, (title, _) in plots.items()}
    card = make_dataset_card(repo, summary, read_run_config(run_dir), tables, licence, titles)
    contents: dict[str, Path | bytes] = {**files, "README.md": card.encode()}
    contents |= {file: svg.encode() for file, (_, svg) in plots.items()}
    return _upload(repo, contents, private, f"Run {manifest.run_id}")


def _collect_files(run_dir: Path, manifest: Manifest) -> dict[str, Path]:
    """The files of the run's tables, by their places in the repository.

    Raises:
        ConfigError: There are none, or episodes are in the journal.
    """
    if any(segment.stat().st_size for segment in uncompacted(list_segments(run_dir / "journal"), manifest)):
        raise ConfigError(
            f"push: episodes of {run_dir} are in its journal only, since the run is at work or was killed; "
            f"wait for it, or end it in order with `kumite run --resume {run_dir}`"
        )
    if not any(shard.episodes for shard in manifest.shards):
        raise ConfigError(f"push: no episode of {run_dir} has ended")
    files: dict[str, Path] = {}
    for shard in manifest.shards:
        if shard.episodes:
            files[shard.episodes_file] = run_dir / shard.episodes_file
        if shard.steps:
            files[shard.steps_file] = run_dir / shard.steps_file
    for path in sorted((run_dir / "states").glob("[!.]*.parquet")):
        files[f"states/{path.name}"] = path
    return files


def _make_plots(run_dir: Path, summary: Summary) -> dict[str, tuple[str, str]]:
    """Titles and texts of the plots, by their places in the repository."""
    rewards = [row["reward"] for row in iterate_rows(run_dir) if row["reward"] is not None]
    plots: dict[str, tuple[str, str]] = {}
    if rewards:
        title = "Rewards of finished episodes"
        plots["plots/reward.svg"] = title, histogram_svg(title, rewards)
    if summary.means:
        title = "Means with 95 % intervals"
        plots["plots/means.svg"] = title, intervals_svg(title, summary.means)
    return plots


def _upload(repo: str, contents: dict[str, Path | bytes], private: bool, message: str) -> str:
    hub: Any = importlib.import_module("huggingface_hub")  # a second
    known: Any = importlib.import_module("huggingface_hub.errors")
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        url = api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        name = url.repo_id
        stale = [
            file
            for file in api.list_repo_files(name, repo_type="dataset")
            if file.partition("/")[0] in _FOLDERS and file not in contents
        ]
        operations = [
            hub.CommitOperationAdd(path_in_repo=place, path_or_fileobj=content)
            for place, content in contents.items()
        ]
        operations += [hub.CommitOperationDelete(path_in_repo=file) for file in stale]
        api.create_commit(name, operations, commit_message=message, repo_type="dataset")
    except known.HFValidationError as error:
        raise ConfigError(f"REPO: got {repo!r}; give OWNER/NAME, such as me/my-rollouts: {error}") from error
    except known.LocalTokenNotFoundError as error:
        raise ConfigError(f"push: there is no token of the hub; {_TOKEN_HELP}") from error
    except known.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = f"; {_TOKEN_HELP}" if status in (401, 403) else ""
        raise RunError(f"push: the hub refuses {repo}: {str(error).strip()}{hint}") from error
    except _network_errors() as error:
        raise RunError(f"push: the hub cannot be reached: {error}") from error
    return str(url)


def _network_errors() -> tuple[type[BaseException], ...]:
    """What the hub's client raises where there is no connection: it has had several HTTP libraries."""
    names = {"httpx": "TransportError", "httpx2": "TransportError", "requests": "RequestException"}
    found = [getattr(sys.modules[module], name) for module, name in names.items() if module in sys.modules]
    return (OSError, *found)


_TOKEN_HELP = "`hf auth login`, or set HF_TOKEN to a token that may write to the dataset"
