"""The exact tokens of an episode, as `kumite show RUN EPISODE_ID --tokens` prints them."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cluster.observe.printing import Line
from cluster.observe.token_texts import TokenTexts, count_kept_tokens
from workers.records import EpisodeRecord, StepRecord


def describe_tokens(episode: EpisodeRecord, texts: TokenTexts) -> list[dict[str, Any]]:
    """The tokens of each step as data: those of the prompt that are new, then those that were sampled.

    Args:
        episode: The episode.
        texts: The texts of its policy's tokens.
    """
    return [_describe_step(episode, place, texts) for place in range(len(episode.steps))]


def _describe_step(episode: EpisodeRecord, place: int, texts: TokenTexts) -> dict[str, Any]:
    step = episode.steps[place]
    kept, goes_on = count_kept_tokens(episode, place)
    prompt, sampled = (step.prompt_token_ids or [])[kept:], step.completion_token_ids or []
    known = step.prompt_token_ids is not None or step.completion_token_ids is not None
    return {
        "step": step.step_index,
        "agent": step.agent,
        "branch": step.branch,
        "parent_step": step.parent_step,
        "policy_version": step.policy_version,
        "kept": kept,
        "goes_on": goes_on,
        "has_tokens": known,
        "no_logprobs": step.no_logprobs,
        "prompt": _token_rows(prompt, texts.decode_ids(prompt), None),
        "sampled": _token_rows(sampled, texts.decode_ids(sampled), step.completion_logprobs),
    }


def _token_rows(
    ids: Sequence[int], texts: Sequence[str] | None, logprobs: Sequence[float] | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for place, token in enumerate(ids):
        row: dict[str, Any] = {"id": token}
        if texts is not None:
            row["text"] = texts[place]
        if logprobs is not None:
            row["logprob"] = logprobs[place]
        rows.append(row)
    return rows


def render_tokens(episode: EpisodeRecord, texts: TokenTexts) -> Iterator[Line]:
    """A line per token: `>` and its log-probability for a sampled one, and its id and text."""
    reward = "no reward" if episode.reward is None else f"reward {episode.reward:g}"
    yield Line(f"episode {episode.episode_id}  {episode.task_id}", style="bold")
    yield Line(f"{episode.status}, {reward}, model {episode.model}")
    for step, found in zip(episode.steps, describe_tokens(episode, texts), strict=True):
        yield Line("")
        yield Line(_describe_place(step), style="bold")
        if not found["has_tokens"]:
            why = found["no_logprobs"] or "the policy gave none"
            yield Line(f"no token ids: {why}", 2, "dim")
            continue
        if found["kept"]:
            yield Line(f"{found['kept']:,} tokens as the step before has them", 2, "dim")
        if not found["goes_on"]:
            yield Line("the prompt does not go on from there: a new sequence begins", 2, "yellow")
        for row in found["prompt"]:
            yield Line(f"          {_describe_token(row)}", 2, "dim")
        for row in found["sampled"]:
            logprob = f"{row['logprob']:8.4f}" if "logprob" in row else " " * 8
            yield Line(f"> {logprob}{_describe_token(row)}", 2, _style_of(row.get("logprob")))


def _describe_place(step: StepRecord) -> str:
    facts = [f"step {step.step_index}"]
    if step.agent is not None:
        facts.append(f"agent {step.agent}, branch {step.branch}")
        facts.append("from the beginning" if step.parent_step is None else f"after step {step.parent_step}")
    if step.policy_version is not None:
        facts.append(f"version {step.policy_version}")
    facts.append(f"{len(step.prompt_token_ids or []):,} tokens of prompt")
    facts.append(f"{len(step.completion_token_ids or []):,} sampled")
    return ", ".join(facts)


def _describe_token(row: dict[str, Any]) -> str:
    text = f"  {json.dumps(row['text'])}" if "text" in row else ""
    return f"{row['id']:8d}{text}"


def _style_of(logprob: float | None) -> str:
    """The style of a sampled token: the less likely it was, the redder."""
    if logprob is None or logprob > -1:
        return "green"
    return "yellow" if logprob > -4 else "red"
