"""What a run's files say of how busy its policy was."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from workers.records import Record


class PolicyUse(Record):
    """How busy the deployment was. Counts are of this run, since this process took it up."""

    running: int = 0
    """Requests in vLLM's batch at the last look."""
    waiting: int = 0
    """Requests that waited for a place in it at the last look."""
    max_requests: int = 0
    """Requests that the batches of all replicas can hold."""
    kv_cache_usage: float = 0.0
    """Share of the KV cache in use at the last look, 0 to 1."""
    tokens_per_second: float = 0.0
    """Tokens sampled per second between the last two looks."""
    prompt_tokens: int = 0
    """Tokens of prompts that vLLM took."""
    generated_tokens: int = 0
    """Tokens that vLLM sampled."""
    prefix_queries: int = 0
    """Prompt tokens that vLLM looked up in its prefix cache."""
    prefix_hits: int = 0
    """Prompt tokens that vLLM found in it."""
    seconds: float = 0.0
    """Seconds watched."""
    busy_seconds: float = 0.0
    """Watched seconds in which a batch was full, or requests waited."""
    waited_for: dict[str, float] = Field(default_factory=dict[str, float])
    """Watched seconds in which the batch was not full, by the cause: `ramp_up` (no episode had ended yet),
    `tail` (no episode was left to be started), `trainer` (a trainer was between two iterations),
    `places` (`workers` has fewer than vLLM can batch), and, of episodes under way, `sandbox`, `tools`,
    `scoring`, and `ingest` (all else, on its way to a record)."""


class PolicyShares(Record):
    """How busy the deployment was over the run."""

    prefix_hit_rate: float | None
    """Share of prompt tokens that were in vLLM's prefix cache. Null where none was looked up."""
    tokens_per_second: float
    """Tokens sampled per second of the run."""
    busy: float
    """Share of the run in which a batch was full, or requests waited."""
    waited_for: dict[str, float]
    """Shares of the run in which it could have taken more, by what they were lacking for: `ramp_up`, `tail`,
    `trainer`, `places`, `sandbox`, `tools`, `scoring` and `ingest`; with `busy` they add up to 1."""


def compute_policy_shares(metrics: Path) -> PolicyShares | None:
    """Adds up what `metrics.jsonl` says of the policy, over all processes that took the run up.

    Args:
        metrics: The file.

    Returns:
        None where it says nothing.
    """
    lasts = _last_of_each_process(metrics)
    seconds = sum(use.seconds for use in lasts)
    if not seconds:
        return None
    # A version that took a replica's restart for a loss has written counts below 0.
    queries, hits, sampled = (
        sum(max(0, count) for count in counts)
        for counts in zip(
            *((use.prefix_queries, use.prefix_hits, use.generated_tokens) for use in lasts), strict=True
        )
    )
    causes = {cause: 0.0 for use in lasts for cause in use.waited_for}
    for use in lasts:
        for cause, waited in use.waited_for.items():
            causes[cause] += waited / seconds
    return PolicyShares(
        prefix_hit_rate=min(1.0, hits / queries) if queries else None,
        tokens_per_second=sampled / seconds,
        busy=sum(use.busy_seconds for use in lasts) / seconds,
        waited_for=causes,
    )


class _Line(BaseModel):
    """What a line of `metrics.jsonl` says of its process and of the policy."""

    process: str | None = None
    elapsed: float | None = None
    policy: PolicyUse | None = None


def _last_of_each_process(metrics: Path) -> list[PolicyUse]:
    """What each process that took the run up said last; the counts of each begin at 0."""
    lasts: list[PolicyUse] = []
    before: _Line | None = None
    begins = True
    for line in _read_lines(metrics):
        begins = begins or (before is not None and _is_other_process(before, line))
        before = line
        if line.policy is None:
            continue
        if begins or line.policy.seconds < lasts[-1].seconds:
            lasts.append(line.policy)
        else:
            lasts[-1] = line.policy
        begins = False
    return lasts


def _is_other_process(before: _Line, line: _Line) -> bool:
    """Whether a line is of another process than the one before it; the first line of each comes at once."""
    if before.process is not None or line.process is not None:
        return before.process != line.process
    return before.elapsed is not None and line.elapsed is not None and line.elapsed < before.elapsed


def _read_lines(metrics: Path) -> Iterator[_Line]:
    try:
        lines = metrics.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield _Line.model_validate(json.loads(line))
        except (ValueError, ValidationError):
            continue  # torn by a crash
