"""What must hold of a run's files and numbers; each check notes what it finds in a report."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from cluster.dataset.arrow import pq
from cluster.dataset.durable import RunFolderError
from cluster.dataset.journal import list_segments, may_be_torn, read_segment
from cluster.dataset.manifest import Manifest, Shard
from cluster.dataset.schemas import STEP_KEYS
from cluster.dataset.shards import file_sha256, uncompacted
from cluster.observe.summary import Summary, summarise_run
from cluster.verify.report import NotChecked, RuleReport
from cluster.verify.run_context import RunContext
from workers.records import EpisodeRecord

_NOT_COMPARED = ("planned", "wall_seconds", "episodes_per_second", "policy", "cost", "failure_groups")
"""Fields of the summary that do not follow from the episodes alone, or not in the same words always."""

_STATE_DIGEST = re.compile(r"-([0-9a-f]{12})$")


def read_episodes(run_dir: Path, manifest: Manifest, files: RuleReport) -> Iterator[EpisodeRecord]:
    """Every episode of a run that can be read; what can't, and files that are not what they were, are noted.

    Args:
        run_dir: The run's folder.
        manifest: Its manifest.
        files: Where that is noted.
    """
    segments = list_segments(run_dir / "journal")
    for shard in manifest.shards:
        files.apply(shard.episodes_file, lambda shard=shard: _changed(run_dir, shard, "episodes"))
        files.apply(shard.steps_file, lambda shard=shard: _changed(run_dir, shard, "steps"))
        yield from _read_until_error(
            lambda shard=shard: _of_shard(run_dir, shard, files), shard.episodes_file, files
        )
    waiting, torn = uncompacted(segments, manifest), may_be_torn(segments)
    for segment in waiting:
        yield from _read_until_error(
            lambda segment=segment: _of_segment(segment, segment in torn),
            f"journal/{segment.name}",
            files,
        )
    files.apply(
        "manifest.json", lambda: _find_unnamed_files(run_dir, manifest, {path.stem for path in waiting})
    )


def _read_until_error(
    read: Callable[[], Iterator[EpisodeRecord]], where: str, files: RuleReport
) -> Iterator[EpisodeRecord]:
    """What a reader gives, up to where it breaks down, which is noted."""
    records = read()
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except (RunFolderError, ValueError, OSError, KeyError, TypeError) as error:
            files.add(where, f"it cannot be read: {str(error)[:300]}")
            return
        yield record


def _changed(run_dir: Path, shard: Shard, table: str) -> str | None:
    path = run_dir / str(getattr(shard, f"{table}_file"))
    if not path.is_file():
        return "it is not there"
    digest, rows = getattr(shard, f"{table}_sha256"), getattr(shard, table)
    if digest is not None and file_sha256(path) != digest:
        return "its bytes are others than when it was written (SHA-256)"
    found = pq.ParquetFile(path).metadata.num_rows
    if found != rows:
        return f"it has {found} rows, and the manifest says {rows}"
    if digest is None:
        raise NotChecked("the manifest has no digest of it, and its rows are as many as they should be")
    return None


def _of_shard(run_dir: Path, shard: Shard, files: RuleReport) -> Iterator[EpisodeRecord]:
    steps: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    keys: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for row in pq.read_table(run_dir / shard.steps_file).to_pylist():
        key = tuple(row.pop(name) for name in STEP_KEYS)
        steps[key[0]].append(row)
        keys[key[0]].add(key)
    seen: set[str] = set()
    for row in pq.read_table(run_dir / shard.episodes_file).to_pylist():
        episode_id = row["episode_id"]
        seen.add(episode_id)
        if not keys[episode_id] <= {tuple(row[name] for name in STEP_KEYS)}:
            files.add(shard.steps_file, f"steps of {episode_id} name another task, group or sample_index")
        yield EpisodeRecord.model_validate({**row, "steps": steps[episode_id]})
    for episode_id in steps.keys() - seen:
        files.add(
            shard.steps_file, f"it has steps of {episode_id}, and {shard.episodes_file} no such episode"
        )


def _of_segment(segment: Path, torn_tail: bool) -> Iterator[EpisodeRecord]:
    for line in read_segment(segment, torn_tail=torn_tail):
        yield EpisodeRecord.model_validate_json(line)


def _find_unnamed_files(run_dir: Path, manifest: Manifest, waiting: set[str]) -> str | None:
    """Files beside those that the manifest names, but for what a killed process may leave.

    Of a segment that is still waiting there may be some, and some that were replaced may be there still.
    """
    named = [file for shard in manifest.shards for file in (shard.episodes_file, shard.steps_file)]
    doubled = [file for file, count in Counter([*named, *manifest.states]).items() if count > 1]
    if doubled:
        return f"it names {doubled[0]} twice"
    there = {
        f"{table}/{path.name}"
        for table in ("episodes", "steps")
        for path in (run_dir / table).glob("*.parquet")
        if path.stem.partition("-0-")[0] not in waiting
    }
    extra = sorted(there - set(named) - manifest.replaced.keys())
    if extra:
        return f"{extra[0]} is there, and it names no such file"
    lost = [state for state in manifest.states if not (run_dir / state).is_file()]
    return f"{lost[0]} is not there" if lost else None


def base_states(run_dir: Path, files: RuleReport, *, named_by_content: bool = False) -> dict[str, str]:
    """The run's base states, JSON text by id; files that cannot be read are noted.

    Args:
        run_dir: The run's folder.
        files: Where that is noted.
        named_by_content: Whether ids end with a digest of the state, as AgentDojo's do.
    """
    states: dict[str, str] = {}
    for path in sorted((run_dir / "states").glob("*.parquet")):

        def read(path: Path = path) -> str | None:
            for row in pq.read_table(path).to_pylist():
                if row["state_id"] != path.stem:
                    return f"it holds the state {row['state_id']!r}"
                state = json.loads(row["state"])
                said = _STATE_DIGEST.search(row["state_id"])
                if named_by_content and said is not None and said[1] != _state_digest(state):
                    return "its state is another than the one that its id was made of"
                states[row["state_id"]] = row["state"]
            return None

        files.apply(f"states/{path.name}", read)
    return states


def _state_digest(state: Any) -> str:
    """What the id of an AgentDojo state ends with (`sandbox_images.agentdojo.state.BaseState`)."""
    return hashlib.blake2s(json.dumps(state, sort_keys=True).encode(), digest_size=6).hexdigest()


class Counts:
    """Counts episodes, to be compared with what the run's own numbers say.

    Args:
        run: The run.
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._seen: Counter[str] = Counter()
        self._groups: defaultdict[str, Counter[tuple[str, int]]] = defaultdict(Counter)

    def add(self, episode: EpisodeRecord) -> str | None:
        """Counts an episode; says whether it was there before, or its place in its group was."""
        self._seen[episode.episode_id] += 1
        group = self._groups[episode.group_id]
        group[(episode.task_id, episode.sample_index)] += 1
        if self._seen[episode.episode_id] > 1:
            return "it is there twice"
        if group[(episode.task_id, episode.sample_index)] > 1:
            return f"its group has two episodes with sample_index {episode.sample_index}"
        if len({task for task, _ in group}) > 1:
            return f"its group {episode.group_id!r} has episodes of several tasks"
        return None

    @property
    def _ended(self) -> int:
        return len(self._seen)

    def planned(self) -> str | None:
        """Whether there are as many as the manifest says.

        Raises:
            NotChecked: The run is not at its end, or does not say.
        """
        manifest, config = self._run.manifest, self._run.config
        if manifest.planned is None:
            raise NotChecked("the manifest does not say how many episodes there are to be")
        if manifest.planned < 0 or manifest.cancelled < 0:
            return f"planned is {manifest.planned}, cancelled {manifest.cancelled}"
        there = self._ended + manifest.cancelled
        said = f"{self._ended} are there and {manifest.cancelled} were cancelled"
        if there > manifest.planned:
            return f"{said}, and {manifest.planned} were planned"
        if manifest.loop is None and manifest.planned % config.samples:
            return f"{manifest.planned} were planned, and each task has {config.samples} samples"
        summary = self._summary()
        if summary is not None and summary.planned is not None and summary.planned != manifest.planned:
            return f"{manifest.planned} were planned by the manifest, {summary.planned} by the summary"
        if there == manifest.planned:
            return None
        record = self._run.record
        ended = record is not None and bool(record.sessions) and record.sessions[-1].ended is not None
        if summary is None or not ended:
            raise NotChecked("the run has not come to its end")
        if summary.finished + summary.failed == self._ended:
            raise NotChecked("the run was ended before all episodes had been played")
        return f"{said}, and {manifest.planned} were planned"

    def summary(self) -> str | None:
        """Whether the summary is that of the episodes.

        Raises:
            NotChecked: There is none, or it is of an earlier time.
        """
        summary = self._summary()
        if summary is None:
            raise NotChecked("there is no summary")
        record = self._run.record
        if record is not None and record.sessions and record.sessions[-1].ended is None:
            raise NotChecked("the summary is of an earlier time: the run has been taken up again since")
        if list_segments(self._run.folder / "journal") and summary.finished + summary.failed != self._ended:
            raise NotChecked("the summary is of an earlier time: the journal holds more")
        said = summary.model_dump(mode="json", exclude_unset=True)
        computed = summarise_run(self._run.folder).model_dump(mode="json")
        for name in said:  # what an earlier version did not write is not there
            if name not in _NOT_COMPARED and not _is_close(said[name], computed[name]):
                found = _shorten(computed[name])
                return f"{name} is {_shorten(said[name])}; computed from the episodes, {found}"
        return None

    def _summary(self) -> Summary | None:
        path = self._run.folder / "summary.json"
        return Summary.model_validate_json(path.read_bytes()) if path.is_file() else None


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        some, others = cast(dict[str, Any], one), cast(dict[str, Any], other)
        return all(name in others and _is_close(some[name], others[name]) for name in some)
    if isinstance(one, list) and isinstance(other, list):
        left, right = cast(list[Any], one), cast(list[Any], other)
        return len(left) == len(right) and all(map(_is_close, left, right))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(1.0, abs(one), abs(other))  # they were added up in any order
    return one == other
