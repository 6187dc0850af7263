"""Whether sequences for training, computed or written, are those of the steps' ids."""

from array import array
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast, get_args

from cluster.dataset.advantages import Advantage
from cluster.dataset.arrow import pq
from cluster.dataset.sequences import SEQUENCES, sequences, sequences_of
from cluster.dataset.sequences import Sequence as TrainingSequence
from cluster.verify.report import NotChecked, RuleReport
from workers.records import EpisodeRecord, StepRecord

_NEW = ("branch",)
"""Columns that files of earlier versions lack."""


def of_steps(episode: EpisodeRecord) -> str | None:
    """Whether an episode's sequences are its steps' ids, seen from the steps.

    Raises:
        NotChecked: A step has no ids, or what it has does not agree.
    """
    for step in episode.steps:
        if step.completion_token_ids is None or step.prompt_token_ids is None:
            raise NotChecked("the policy gave no token ids")
        if len(step.completion_logprobs or []) != len(step.completion_token_ids):
            raise NotChecked("a step's lengths do not agree")
    made = sequences_of(episode)
    covered = sorted(step.step_index for each in made for step in episode.steps if _holds(each, step))
    if covered != [step.step_index for step in episode.steps]:
        return "its sequences do not hold each step once"
    for each in made:
        complaint = _describe_missing(each, episode.steps)
        if complaint is not None:
            return complaint
    return None


def _holds(sequence: TrainingSequence, step: StepRecord) -> bool:
    """Whether a step is one of a sequence's."""
    is_between = sequence.first_step <= step.step_index <= sequence.last_step
    return is_between and step.branch == sequence.branch


def _describe_missing(sequence: TrainingSequence, steps: Sequence[StepRecord]) -> str | None:
    """What a sequence lacks of the steps that it is made of."""
    ids, mask, logprobs = sequence.input_ids, sequence.loss_mask, sequence.logprobs
    if not len(ids) == len(mask) == len(logprobs):
        return "its columns differ in length"
    expected_mask, expected_logprobs = [0] * len(ids), [0.0] * len(ids)
    for step in steps:
        if not _holds(sequence, step):
            continue
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        end = len(prompt) + len(sampled)
        if ids[:end] != [*prompt, *sampled]:
            return f"it does not hold the ids of step {step.step_index}"
        expected_mask[len(prompt) : end] = [1] * len(sampled)
        expected_logprobs[len(prompt) : end] = step.completion_logprobs or []
    if mask != expected_mask:
        return "its mask lets through what was not sampled, or not what was"
    return None if logprobs == expected_logprobs else "its log-probabilities are others than the steps'"


def check_sequence_files(run_dir: Path, report: RuleReport) -> None:
    """Compares each file of `sequences/` with what is computed again, row by row and column by column."""
    for path in sorted((run_dir / "sequences").glob("*.parquet")):
        report.apply(f"sequences/{path.name}", lambda path=path: _check_sequence_file(run_dir, path))


def _check_sequence_file(run_dir: Path, path: Path) -> str | None:
    file = pq.ParquetFile(path)
    names = [name for name in SEQUENCES.names if name not in _NEW or name in file.schema_arrow.names]
    missing = [name for name in names if name not in file.schema_arrow.names]
    if missing:
        return f"it has no column {missing[0]}"
    rows = _rows(file)
    first = next(rows, None)
    kind = path.stem if first is None or path.stem in get_args(Advantage) else str(first["advantage_kind"])
    if kind not in get_args(Advantage):
        return f"its advantages are of the kind {kind!r}, which is none"
    computed = (sequence.model_dump() for sequence in sequences(run_dir, cast(Advantage, kind)))
    given = (row for row in (*([] if first is None else [first]), *rows))
    for number, (row, expected) in enumerate(zip_longest(given, computed)):
        if row is None:
            return (
                f"row {number} is missing, sequence {expected['sequence_index']} of {expected['episode_id']}"
            )
        if expected is None:
            return f"row {number} is one too many, sequence {row['sequence_index']} of {row['episode_id']}"
        for name in names:
            if not _is_same(name, row[name], expected[name]):
                which = f"row {number}, sequence {row['sequence_index']} of {row['episode_id']}"
                return f"{which}: {name} is {_shorten(row[name])}; computed again, {_shorten(expected[name])}"
    return None


def _rows(file: Any) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=64):
        yield from batch.to_pylist()


def _is_same(name: str, one: Any, other: Any) -> bool:
    if name == "logprobs":
        return one is not None and array("f", one) == array("f", other)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(1.0, abs(other))
    return one == other


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
