"""Which episodes of a run are exported."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from cluster.dataset.conditions import Condition, matching_rows
from cluster.dataset.episodes import iterate_records
from cluster.export.conversations import Conversation, conversations_of, same_message
from workers.records import EpisodeRecord, Message


@dataclass(frozen=True)
class Preference:
    """Two ways in which one conversation went on, one of which was rewarded more."""

    chosen_episode: EpisodeRecord
    rejected_episode: EpisodeRecord
    prompt: list[Message]
    """What both have in common; its last message is no action of the policy's."""
    chosen: list[Message]
    """How the episode with more reward went on, from the policy's action on which they part."""
    rejected: list[Message]
    """How the other one went on."""
    tools: list[dict[str, Any]]
    """The tools that the policy was offered."""


def select_ids(run_dir: Path, conditions: list[Condition], best_of: int | None = None) -> set[str]:
    """The finished episodes for which all conditions hold.

    Args:
        run_dir: The run's folder.
        conditions: What must hold.
        best_of: Of each group, only the one of its first so many samples that has the highest reward; of
            several, the one that sampled the fewest tokens. None: all.

    Raises:
        ConfigError: A condition names what no episode has.
        ManifestError: The folder holds no run.
    """
    rows = [row for row in matching_rows(run_dir, conditions) if row["status"] == "finished"]
    if best_of is None:
        return {row["episode_id"] for row in rows}
    groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["reward"] is not None:
            groups[row["group_id"]].append(row)
    best: set[str] = set()
    for group in groups.values():
        first = sorted(group, key=lambda row: row["sample_index"])[:best_of]
        chosen = min(first, key=lambda row: (-row["reward"], row["usage"]["completion_tokens"]))
        best.add(chosen["episode_id"])
    return best


def selected_records(run_dir: Path, ids: set[str]) -> Iterator[EpisodeRecord]:
    """The episodes of these ids."""
    return (record for record in iterate_records(run_dir) if record.episode_id in ids)


def preferences(run_dir: Path, ids: set[str]) -> Iterator[Preference]:
    """Pairs of a group's episodes: the best with the worst, the second best with the second worst, and so on.

    An episode is in one pair at most, and both rewards differ. Pairs that share no prompt, or say the same to
    the end, are passed over. Memory is that of the groups whose episodes are not all read yet.

    Args:
        run_dir: The run's folder.
        ids: The episodes that are paired.
    """
    waiting: defaultdict[str, list[EpisodeRecord]] = defaultdict(list)
    sizes: defaultdict[str, int] = defaultdict(int)
    for row in matching_rows(run_dir, []):
        sizes[row["group_id"]] += row["episode_id"] in ids
    for record in selected_records(run_dir, ids):
        group = waiting[record.group_id]
        group.append(record)
        if len(group) == sizes[record.group_id]:
            yield from _pair_group(waiting.pop(record.group_id))


def _pair_group(group: list[EpisodeRecord]) -> Iterator[Preference]:
    rewarded = [(record.reward, record) for record in group if record.reward is not None]
    ordered = sorted(rewarded, key=lambda item: (-item[0], item[1].sample_index))
    for index in range(len(ordered) // 2):
        (high, better), (low, worse) = ordered[index], ordered[-1 - index]
        if high > low:
            pair = _part(better, worse)
            if pair is not None:
                yield pair


def _part(better: EpisodeRecord, worse: EpisodeRecord) -> Preference | None:
    """Where two episodes part; None where they share no prompt, or never part by an action."""
    one, other = (_first_conversation(record) for record in (better, worse))
    if one is None or other is None:
        return None
    shared = sum(
        1
        for _ in takewhile(lambda pair: same_message(*pair), zip(one.messages, other.messages, strict=False))
    )
    if shared < max(one.given, other.given) or shared >= min(len(one.messages), len(other.messages)):
        return None
    if one.messages[shared].role != "assistant" or other.messages[shared].role != "assistant":
        return None  # the environment answered the same action in two ways
    return Preference(
        better,
        worse,
        prompt=one.messages[:shared],
        chosen=one.messages[shared:],
        rejected=other.messages[shared:],
        tools=one.tools,
    )


def _first_conversation(record: EpisodeRecord) -> Conversation | None:
    return next(iter(conversations_of(record)), None)
