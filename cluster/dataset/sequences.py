"""Sequences for training: an episode's token ids, with a mask, log-probabilities and its advantage."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from cluster.dataset.advantages import Advantage, Played, advantages, rewards_of
from cluster.dataset.arrow import pa, pq
from cluster.dataset.durable import replacing
from cluster.dataset.episodes import iterate_records
from cluster.dataset.manifest import load_manifest
from cluster.dataset.schemas import arrow_fields
from cluster.errors import ConfigError
from workers.agent_results import read_agents
from workers.records import EpisodeRecord, Record, StepRecord


class Sequence(Record):
    """One row of the `sequences` table."""

    episode_id: str
    """The episode that it is part of."""
    task_id: str
    """The episode's task."""
    split: str | None = None
    """The episode's split, `train` or `eval`. A trainer's own evaluations are usually `eval`."""
    group_id: str
    """The episode's group."""
    sample_index: int
    """Which sample of its task the episode is, from 0."""
    sequence_index: int
    """Place in the episode, from 0. With `policy.tokens: exact`, an episode without branches has only 0."""
    agent: str | None = None
    """The agent that played it; null if the environment's own loop did."""
    branch: int | None = None
    """The branch of the episode that it is part of; null if the environment's own loop played it."""
    first_step: int
    """`step_index` of its first step. Between the first and the last one, steps of other branches may lie."""
    last_step: int
    """`step_index` of its last step."""
    input_ids: list[int]
    """Token ids: the first step's prompt, the sampled ids, the ids that the environment added, and so on."""
    loss_mask: list[int]
    """1 on sampled tokens, 0 on all others."""
    logprobs: list[float]
    """Log-probability of each sampled token, under the weights that sampled it; 0 on all others."""
    reward: float
    """The reward of the agent that played it, where the episode has several agents; else the episode's."""
    advantage: float
    """Its advantage in its group, the same in all sequences of the agent in the episode."""
    advantage_kind: str
    """How the advantage was computed: `grpo`, `dr_grpo`, `rloo`, or `none`."""
    policy_version: int | None = None
    """Version of the weights that sampled its first step."""
    last_policy_version: int | None = None
    """Version that sampled its last step. It differs from `policy_version` if weights changed in between."""
    is_truncated: bool
    """Whether a turn of the episode was cut off by a token limit."""


@dataclass
class SequenceFileSummary:
    """The contents of a file of sequences, counted for a trainer."""

    kind: Advantage
    """How advantages were computed."""
    sequences: int = 0
    """Its rows."""
    tokens: int = 0
    """Sampled tokens: those to learn from."""
    with_advantage: int = 0
    """Sequences whose advantage is not 0."""
    episodes: set[str] = field(default_factory=set[str])
    """Ids of their episodes."""
    groups: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """The episodes of each group."""
    splits: set[str | None] = field(default_factory=set[str | None])
    """The splits of their tasks."""
    left_out: Counter[str] = field(default_factory=Counter[str])
    """Finished episodes that have no sequence, by why."""

    def add(self, sequence: Sequence) -> None:
        """Counts a row in."""
        self.sequences += 1
        self.tokens += sum(sequence.loss_mask)
        self.with_advantage += sequence.advantage != 0
        self.episodes.add(sequence.episode_id)
        self.groups.setdefault(sequence.group_id, set()).add(sequence.episode_id)
        self.splits.add(sequence.split)

    def describe(self) -> str:
        """Describes the file in one sentence for the user."""
        return (
            f"{len(self.episodes):,} episodes of {len(self.groups):,} groups, {self.sequences:,} sequences, "
            f"{self.tokens:,} tokens to learn from; {self.with_advantage:,} sequences have an advantage "
            "other than 0"
        )

    def warnings(self) -> list[str]:
        """Returns what a trainer would not want in the file."""
        found: list[str] = []
        if self.left_out:
            [(reason, _)] = self.left_out.most_common(1)
            found.append(
                f"{self.left_out.total():,} finished episodes have no sequence, since one of their steps has "
                f"no token ids or log-probabilities: {reason}"
            )
        if not self.sequences:
            return ["there is no sequence: no episode has finished with a reward and with token ids"]
        is_alone = all(len(episodes) == 1 for episodes in self.groups.values())
        if is_alone and self.kind != "none":
            found.append(
                "every group has one finished episode, so that no reward can be compared with another's: "
                "set `samples` to 4 or more"
            )
        if not self.with_advantage:
            cause = "" if is_alone else ": the episodes of each group have the same reward"
            found.append(f"every advantage is 0, so that a trainer learns nothing from this file{cause}")
        if "eval" in self.splits:
            found.append(
                "these are tasks of the split `eval`, which is meant to evaluate on: training on them spoils "
                "it; `environment.split: train` plays those to learn from, where the environment has them"
            )
        return found


Branch: TypeAlias = tuple[str | None, int | None]
"""An agent, and one of its conversations; both None where the environment's own loop played."""


@dataclass(frozen=True)
class _Share:
    """What a branch's sequences are told of its episode."""

    reward: float
    advantage: float
    kind: Advantage


def sequences_of(
    episode: EpisodeRecord,
    advantage: float = 0.0,
    kind: Advantage = "none",
    by_branch: Mapping[Branch, tuple[float, float]] | None = None,
) -> list[Sequence]:
    """An episode's sequences: turns are put together where that is exact.

    A turn whose prompt begins, id by id, with the turn before it in its branch (its prompt, then what it
    sampled) goes on in the same sequence. Any other begins a new one. What an earlier branch has sampled is
    prompt in a later one that left from it: no sampled id is in two sequences as such. Steps that are not to
    be learnt from are left out.

    Args:
        episode: The episode; all of its steps to learn from must have token ids.
        advantage: Its advantage.
        kind: How that was computed.
        by_branch: Reward and advantage of the branches of an episode of several agents, by agent and branch.
            None: those of its record, and `advantage`.
    """
    sequences: list[Sequence] = []
    latest: dict[Branch, Sequence] = {}
    rewards: dict[Branch, tuple[float, float]] = {
        (result.agent, branch): (result.reward, advantage)
        for result in read_agents(episode)
        for branch in result.branches
    }
    of_branch = rewards if by_branch is None else by_branch
    whole = (episode.reward if episode.reward is not None else 0.0, advantage)
    for step in episode.steps:
        if step.trainable is False:
            continue
        prompt, sampled = step.prompt_token_ids or [], step.completion_token_ids or []
        branch = (step.agent, step.branch)
        sequence = latest.get(branch)
        if sequence is None or prompt[: len(sequence.input_ids)] != sequence.input_ids:
            share = _Share(*of_branch.get(branch, whole), kind)
            sequence = latest[branch] = _begin_sequence(episode, step, len(sequences), share)
            sequences.append(sequence)
        added = prompt[len(sequence.input_ids) :]
        sequence.input_ids += [*added, *sampled]
        sequence.loss_mask += [0] * len(added) + [1] * len(sampled)
        sequence.logprobs += [0.0] * len(added) + (step.completion_logprobs or [])
        sequence.last_step = step.step_index
        sequence.last_policy_version = step.policy_version
    return sequences


def sequences(
    run_dir: Path, kind: Advantage = "grpo", left_out: Counter[str] | None = None
) -> Iterator[Sequence]:
    """A run's sequences, those of its finished episodes that have token ids.

    A group's advantages take in all of its finished episodes. Reads the run twice, to hold rewards only.

    Args:
        run_dir: The run's folder.
        kind: How advantages are computed; see `advantages`.
        left_out: Counts the finished episodes that have no sequence, by why.

    Raises:
        ManifestError: The folder holds no run, or one of another format.
        JournalCorrupt: The journal is damaged.
        ConfigError: Episodes have finished, and none of them has token ids.
    """
    return sequences_of_records(lambda: iterate_records(run_dir), kind, left_out)


def sequences_of_records(
    read: Callable[[], Iterable[EpisodeRecord]],
    kind: Advantage = "grpo",
    left_out: Counter[str] | None = None,
) -> Iterator[Sequence]:
    """The sequences of episodes; see `sequences`.

    Args:
        read: Gives the episodes; called twice.
        kind: How advantages are computed.
        left_out: Counts the finished episodes that have no sequence, by why.

    Raises:
        ConfigError: Episodes have finished, and none of them has token ids.
    """
    groups: defaultdict[tuple[str, str | None], dict[Played, float]] = defaultdict(dict)
    with_ids = finished = 0
    for episode in read():
        if episode.status == "finished" and episode.reward is not None:
            finished += 1
            with_ids += _has_ids(episode)
            for played, reward in rewards_of(episode, episode.reward):
                groups[episode.group_id, played.agent][played] = reward
    if finished and not with_ids:
        raise ConfigError(
            f"of {finished} finished episodes, none has token ids to learn from: "
            "`policy.token_ids: true` asks an endpoint for them, and so does `policy.tokens: exact`; "
            "`policy.kind: vllm` gives them always, `oracle` never"
        )
    found = {
        played: (group[played], advantage)
        for group in groups.values()
        for played, advantage in zip(group, advantages(group.values(), kind), strict=True)
    }
    for episode in read():
        if episode.status != "finished" or episode.reward is None:
            continue
        if _has_ids(episode):
            own = found.get(Played(episode.episode_id), (0.0, 0.0))
            by_branch: dict[Branch, tuple[float, float]] = {
                (played.agent, branch): found[played]
                for played, _ in rewards_of(episode, episode.reward)
                for branch in played.branches
            }
            yield from sequences_of(episode, own[1], kind, by_branch)
        elif left_out is not None:
            reasons = [step.no_logprobs for step in episode.steps if step.no_logprobs]
            left_out[reasons[0] if reasons else "the policy gave none"] += 1


def _has_ids(episode: EpisodeRecord) -> bool:
    learnt = [step for step in episode.steps if step.trainable is not False]
    return bool(learnt or not episode.steps) and all(s.completion_token_ids is not None for s in learnt)


def write_sequences(
    run_dir: Path, kind: Advantage = "grpo", out: Path | None = None
) -> tuple[Path, "SequenceFileSummary"]:
    """Writes a run's sequences as a Parquet file.

    Args:
        run_dir: The run's folder.
        kind: How advantages are computed.
        out: The file. None: `sequences/<kind>.parquet` in the run's folder.

    Returns:
        The file, and what is in it.

    Raises:
        ConfigError: Episodes have finished, and none of them has token ids.
        ManifestError: The folder holds no run, or one of another format.
        JournalCorrupt: The journal is damaged.
    """
    load_manifest(run_dir)
    path = out or run_dir / "sequences" / f"{kind}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    written = SequenceFileSummary(kind)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, SEQUENCES, compression="zstd") as writer:
        for sequence in sequences(run_dir, kind, written.left_out):
            rows.append(sequence.model_dump())
            written.add(sequence)
            if len(rows) == 256:
                writer.write_table(pa.Table.from_pylist(rows, schema=SEQUENCES))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=SEQUENCES))
    return path, written


def _begin_sequence(episode: EpisodeRecord, step: StepRecord, index: int, share: _Share) -> Sequence:
    return Sequence(
        episode_id=episode.episode_id,
        task_id=episode.task_id,
        split=episode.split,
        group_id=episode.group_id,
        sample_index=episode.sample_index,
        sequence_index=index,
        agent=step.agent,
        branch=step.branch,
        first_step=step.step_index,
        last_step=step.step_index,
        input_ids=[],
        loss_mask=[],
        logprobs=[],
        reward=share.reward,
        advantage=share.advantage,
        advantage_kind=share.kind,
        policy_version=step.policy_version,
        is_truncated=episode.is_truncated,
    )


SEQUENCES = pa.schema(arrow_fields(Sequence))
"""The `sequences` table."""
