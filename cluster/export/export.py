"""`kumite export`: a run's episodes as files of other tools."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from cluster.dataset.conditions import Condition, matching_rows
from cluster.dataset.durable import replacing
from cluster.dataset.manifest import load_manifest
from cluster.dataset.sequences import sequences_of
from cluster.errors import ConfigError
from cluster.export.config import read_run_config
from cluster.export.conversations import Conversation, conversations_of
from cluster.export.inspect_log import write_inspect_log
from cluster.export.openai import openai_lines, openai_preference_lines
from cluster.export.parquet import (
    trl_preference_rows,
    trl_rows,
    write_trl,
    write_trl_tokens,
    write_verl,
)
from cluster.export.selection import preferences, select_ids, selected_records
from cluster.export.sharegpt import sharegpt_lines, sharegpt_preference_lines
from cluster.export.verifiers_results import write_verifiers_results
from cluster.observe.summary import summarise_run

Format: TypeAlias = Literal["openai", "sharegpt", "trl", "verl", "inspect", "verifiers"]
_ENDINGS: dict[Format, str] = {
    "openai": ".jsonl",
    "sharegpt": ".jsonl",
    "trl": ".parquet",
    "verl": ".parquet",
    "inspect": ".eval",
    "verifiers": "",
}
_WITH_PAIRS = ("openai", "sharegpt", "trl")


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    path: Path
    """The file, or the folder."""
    rows: int
    """Its rows: conversations, pairs, sequences or samples."""
    what: str
    """What a row is."""
    warning: str | None = None
    """What is not as a user may expect."""


@dataclass(frozen=True)
class ExportChoice:
    """What of a run is exported, and how."""

    format: Format
    conditions: list[Condition]
    """What must hold for an episode."""
    best_of: int | None = None
    """Of each group, only the best of its first so many samples."""
    pairs: bool = False
    """Preference pairs from groups in place of conversations."""
    tokens: bool = False
    """Exact token ids in place of messages."""


def check_choice(
    name: str, conditions: list[Condition], best_of: int | None, pairs: bool, tokens: bool
) -> ExportChoice:
    """What a user has asked for.

    Raises:
        ConfigError: There is no such format, or it has no such rows.
    """
    if name not in get_args(Format):
        raise ConfigError(f"--format: got {name!r}; it must be one of {', '.join(get_args(Format))}")
    if pairs and name not in _WITH_PAIRS:
        raise ConfigError(f"--pairs: the format {name} has none; give --format {', '.join(_WITH_PAIRS)}")
    if tokens and (name != "trl" or pairs):
        raise ConfigError("--tokens goes with --format trl, and not with --pairs; `kumite sequences` has all")
    if best_of is not None and (pairs or best_of < 1):
        raise ConfigError(f"--best-of: got {best_of}; give 1 or more, and not with --pairs")
    return ExportChoice(cast(Format, name), conditions, best_of, pairs, tokens)


def default_path(run_dir: Path, choice: ExportChoice) -> Path:
    """Where an export goes that has no `--out`: the working folder."""
    kind = "-pairs" if choice.pairs else "-tokens" if choice.tokens else ""
    run_id = load_manifest(run_dir).run_id
    return Path(f"{run_id}-{choice.format}{kind}{_ENDINGS[choice.format]}")


def export_run(run_dir: Path, choice: ExportChoice, path: Path) -> Exported:
    """Writes a run's episodes in another tool's format.

    Args:
        run_dir: The run's folder.
        choice: What of it, and how.
        path: The file to write; of `verifiers` the folder.

    Raises:
        ConfigError: No episode is chosen, or a condition names what no episode has.
        ManifestError: The folder holds no run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if choice.format == "inspect":
        return _export_log(run_dir, choice, path)
    ids = select_ids(run_dir, choice.conditions, choice.best_of)
    if choice.format == "verifiers":
        records = selected_records(run_dir, ids)
        count = write_verifiers_results(path, records, summarise_run(run_dir), read_run_config(run_dir))
        return _checked(Exported(path, count, "results"), run_dir)
    if choice.pairs:
        return _checked(_export_pairs(run_dir, choice, ids, path), run_dir)
    if choice.tokens:
        records = (record for record in selected_records(run_dir, ids) if _has_ids(record))
        count = write_trl_tokens(path, (row for record in records for row in sequences_of(record)))
        return _checked(Exported(path, count, "sequences"), run_dir)
    conversations = (each for record in selected_records(run_dir, ids) for each in conversations_of(record))
    return _checked(_export_conversations(choice, conversations, path), run_dir)


def _export_conversations(
    choice: ExportChoice, conversations: Iterator[Conversation], path: Path
) -> Exported:
    warning = None
    if choice.format == "openai":
        count = _write_lines(path, openai_lines(conversations))
    elif choice.format == "sharegpt":
        count = _write_lines(path, sharegpt_lines(conversations))
    elif choice.format == "trl":
        count = write_trl(path, trl_rows(conversations), ("messages",))
    else:
        count, in_place = write_verl(path, conversations)
        if not in_place:
            warning = (
                "verl takes tools as nested columns, which cannot hold these: they are in the column "
                "tools_json, which verl does not read, so that it renders the prompts without them"
            )
    return Exported(path, count, "conversations", warning)


def _export_pairs(run_dir: Path, choice: ExportChoice, ids: set[str], path: Path) -> Exported:
    pairs = preferences(run_dir, ids)
    if choice.format == "openai":
        count = _write_lines(path, openai_preference_lines(pairs))
    elif choice.format == "sharegpt":
        count = _write_lines(path, sharegpt_preference_lines(pairs))
    else:
        count = write_trl(path, trl_preference_rows(pairs), ("prompt", "chosen", "rejected"))
    return Exported(path, count, "pairs")


def _export_log(run_dir: Path, choice: ExportChoice, path: Path) -> Exported:
    """Failed episodes are in a log, too, unless a choice among samples leaves them out."""
    if choice.best_of is not None:
        ids = select_ids(run_dir, choice.conditions, choice.best_of)
    else:
        ids = {row["episode_id"] for row in matching_rows(run_dir, choice.conditions)}
    records = selected_records(run_dir, ids)
    count = write_inspect_log(path, records, summarise_run(run_dir), read_run_config(run_dir))
    return _checked(Exported(path, count, "samples"), run_dir)


def _checked(made: Exported, run_dir: Path) -> Exported:
    """The same export, unless it is empty: then its file is removed.

    Raises:
        ConfigError: It is.
    """
    if made.rows:
        return made
    if made.path.is_file():
        made.path.unlink()
    need = {
        "pairs": "two samples of a task that part by an action and differ in reward (`samples: 4`)",
        "sequences": "finished episodes with token ids (`policy.token_ids: true` asks an endpoint for them)",
    }.get(made.what, "finished episodes for which --where holds")
    raise ConfigError(f"there is nothing to export in {run_dir}: there are no {need}")


def _has_ids(record: Any) -> bool:
    return all(step.completion_token_ids is not None for step in record.steps)


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line)
            count += 1
    return count
