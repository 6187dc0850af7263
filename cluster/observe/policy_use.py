"""What a run's files say of how busy its policy was."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from workers.records import Record


class PolicyUse(Record):
    """How busy the deployment was. Counts are of this run, from when this process took it up."""

    running: int = 0
    """Requests in vLLM's batch when it was last read."""
    waiting: int = 0
    """Requests that waited for a place in the batch when it was last read."""
    max_requests: int = 0
    """Most requests that the batches of all replicas can hold."""
    kv_cache_usage: float = 0.0
    """Used share of the KV cache when it was last read, 0 to 1."""
    tokens_per_second: float = 0.0
    """Sampled tokens per second between the last two readings."""
    prompt_tokens: int = 0
    """Prompt tokens that vLLM received."""
    generated_tokens: int = 0
    """Tokens that vLLM sampled."""
    prefix_queries: int = 0
    """Prompt tokens that vLLM looked up in its prefix cache."""
    prefix_hits: int = 0
    """Prompt tokens that vLLM found in its prefix cache."""
    seconds: float = 0.0
    """Seconds for which the deployment was watched."""
    busy_seconds: float = 0.0
    """Watched seconds in which a batch was full, or requests waited."""
    waited_for: dict[str, float] = Field(default_factory=dict[str, float])
    """Watched seconds in which the batch was not full, by cause: `ramp_up` (no episode had ended yet), `tail`
    (no episode was left to start), `trainer` (between two iterations of a trainer), `places` (`workers`
    allows fewer episodes than vLLM can batch). The other causes are what running episodes were doing:
    `sandbox` (waiting for a sandbox), `tools`, `scoring`, `ingest` (being recorded, and all else)."""


class PolicyShares(Record):
    """How busy the deployment was over the run."""

    prefix_hit_rate: float | None
    """Share of prompt tokens that were in vLLM's prefix cache. Null if none was looked up."""
    tokens_per_second: float
    """Sampled tokens per second of the run."""
    busy: float
    """Share of the run in which a batch was full, or requests waited."""
    waited_for: dict[str, float]
    """Shares of the run in which the batch was not full, by the causes of `waited_for` in `metrics.jsonl`;
    with `busy` they add up to 1."""


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
