"""`kumite compare --tokens`: where sampled tokens part, and how likely each run had them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.compare.pairs import load_rows, pair_episodes
from cluster.dataset.episodes import iterate_records
from cluster.errors import ConfigError
from cluster.observe.printing import Line, render_table
from workers.records import EpisodeRecord, Record

_MAX_PAIRS_SHOWN = 10


class TokenPair(Record):
    """Two episodes of one task, token by token."""

    first_episode: str
    """The episode of the first run."""
    second_episode: str
    """The one of the other run."""
    shared: int
    """Sampled tokens that are the same, from the beginning on, each after the same prompt."""
    step: int | None = None
    """The step at which they part. Null: they never do."""
    token: int | None = None
    """The place, among the step's sampled tokens, at which they part. Null where their prompts differ before
    it, or one has no such step."""
    mean_logprob_gap: float | None = None
    """Mean, over the shared tokens, of the other run's log-probability less the first one's."""
    largest_logprob_gap: float | None = None
    """Largest absolute difference between the two."""


class TokenComparison(Record):
    """The tokens of two runs, episode by episode."""

    first: str
    """The first run."""
    second: str
    """The other run."""
    same: int
    """Pairs whose tokens are all the same."""
    without_tokens: int
    """Pairs of which an episode has no token ids: they are not compared."""
    pairs: list[TokenPair]
    """The others, and those that are the same."""


@dataclass(frozen=True)
class _Sampled:
    """What is held of a step."""

    prompt: int
    """Hash of the prompt's ids."""
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def compare_tokens(first: tuple[str, Path], second: tuple[str, Path]) -> TokenComparison:
    """The tokens of two runs' episodes, paired as `compare_runs` pairs them.

    Memory is that of the sampled tokens of one run.

    Raises:
        ConfigError: The runs have no episode in common, or no pair of episodes has token ids.
        ManifestError: A folder holds no run.
    """
    _, rows = pair_episodes(load_rows(*first), load_rows(*second))
    partners = {a["episode_id"]: b["episode_id"] for a, b in rows}
    wanted = set(partners.values())
    others = {
        record.episode_id: _sampled_steps(record)
        for record in iterate_records(second[1])
        if record.episode_id in wanted
    }
    pairs: list[TokenPair] = []
    lacking = 0
    for record in iterate_records(first[1]):
        partner = partners.get(record.episode_id)
        if partner is None:
            continue
        own, other = _sampled_steps(record), others.get(partner)
        if own is None or other is None:
            lacking += 1
            continue
        pairs.append(_compare_steps(record.episode_id, partner, own, other))
    if not pairs:
        raise ConfigError(
            f"compare --tokens: no pair of episodes of {first[0]} and {second[0]} has token ids; "
            "`policy.token_ids: true` asks an endpoint for them, and `policy.kind: vllm` gives them always"
        )
    same = sum(pair.step is None for pair in pairs)
    return TokenComparison(first=first[0], second=second[0], same=same, without_tokens=lacking, pairs=pairs)


def _sampled_steps(record: EpisodeRecord) -> list[_Sampled] | None:
    steps: list[_Sampled] = []
    for step in record.steps:
        if step.prompt_token_ids is None or step.completion_token_ids is None:
            return None
        logprobs = tuple(step.completion_logprobs or ())
        steps.append(_Sampled(hash(tuple(step.prompt_token_ids)), tuple(step.completion_token_ids), logprobs))
    return steps or None


def _compare_steps(first: str, second: str, own: list[_Sampled], other: list[_Sampled]) -> TokenPair:
    gaps: list[float] = []
    pair = TokenPair(first_episode=first, second_episode=second, shared=0)
    for index in range(max(len(own), len(other))):
        if index >= min(len(own), len(other)) or own[index].prompt != other[index].prompt:
            pair.step = index
            break
        a, b = own[index], other[index]
        shared = next(
            (at for at, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y),
            min(len(a.ids), len(b.ids)),
        )
        pair.shared += shared
        gaps += [y - x for x, y in zip(a.logprobs[:shared], b.logprobs[:shared], strict=False)]
        if shared < max(len(a.ids), len(b.ids)):
            pair.step, pair.token = index, shared
            break
    if gaps:
        pair.mean_logprob_gap = sum(gaps) / len(gaps)
        pair.largest_logprob_gap = max(map(abs, gaps))
    return pair


def token_comparison_lines(found: TokenComparison, width: int | None) -> Iterator[Line]:
    """What is printed: how many pairs are the same, and where the others part, the earliest first.

    Args:
        found: The comparison.
        width: The terminal's columns; None in a pipe.
    """
    yield Line(f"{found.first} → {found.second}: sampled tokens", style="bold")
    text = f"{len(found.pairs):,} pairs of episodes have token ids; of {found.same:,} all tokens are the same"
    if found.without_tokens:
        text += f"; {found.without_tokens:,} pairs have none, and are not compared"
    yield Line(text)
    parted = [pair for pair in found.pairs if pair.step is not None]
    shown = sorted(parted, key=lambda pair: (pair.step or 0, pair.token or 0))[:_MAX_PAIRS_SHOWN]
    if shown:
        columns = {
            "part at step": [str(pair.step) for pair in shown],
            "token": ["prompt" if pair.token is None else str(pair.token) for pair in shown],
            "shared": [f"{pair.shared:,}" for pair in shown],
            "logprob gap": [_format_gap(pair.mean_logprob_gap, "+.4f") for pair in shown],
            "largest": [_format_gap(pair.largest_logprob_gap, ".4f") for pair in shown],
            "episodes": [
                pair.first_episode
                if pair.first_episode == pair.second_episode
                else f"{pair.first_episode} {pair.second_episode}"
                for pair in shown
            ],
        }
        yield from map(Line, render_table(columns, width, right=set(columns) - {"episodes"}))
    yield Line(
        "shared: tokens that both sampled after the same prompt. logprob gap: the second run's "
        "log-probability of them less the first one's, mean and largest.",
        style="dim",
    )
    yield Line("")


def _format_gap(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
