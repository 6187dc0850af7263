"""An episode's training sequences, token by token, for the heat map of its page."""

from typing import Any

from cluster.dataset.sequences import Sequence, sequences_of
from cluster.observe.token_texts import TokenTexts
from workers.records import EpisodeRecord, StepRecord

_MAX_TOKENS = 20_000
"""Tokens of an episode that a page gets at once."""


def describe_sequences(episode: EpisodeRecord, texts: TokenTexts) -> dict[str, Any]:
    """The sequences that a trainer learns from, as stretches of prompt and of sampled tokens.

    Args:
        episode: The episode.
        texts: The texts of its policy's tokens.

    Returns:
        `sequences`, each with its `branch`, counts of tokens, and `stretches`. A stretch has the `step` that
        it is part of, the `version` that sampled it, its `ids`, their `texts` (null without a tokenizer),
        `trained` (whether the loss mask is 1 on it), and `logprobs` where it is. `left_out` counts the tokens
        beyond what a page gets. `missing` says why there are no sequences.
    """
    without = next((step for step in episode.steps if step.completion_logprobs is None), None)
    if not episode.steps or without is not None:
        reason = None if without is None else (without.no_logprobs or "the policy gave none")
        return {"sequences": [], "left_out": 0, "missing": reason or "the episode has no step"}
    room, left_out = _MAX_TOKENS, 0
    found: list[dict[str, Any]] = []
    for sequence in sequences_of(episode):
        stretches: list[dict[str, Any]] = []
        for stretch in _split_sequence(episode, sequence):
            size = len(stretch["ids"])
            kept = min(size, room)
            room, left_out = room - kept, left_out + size - kept
            for name in ("ids", "logprobs"):
                stretch[name] = stretch[name][:kept] if stretch[name] is not None else None
            stretch["texts"] = texts.decode_ids(stretch["ids"])
            if kept:
                stretches.append(stretch)
        found.append(
            {
                "branch": sequence.branch,
                "tokens": len(sequence.input_ids),
                "trained": sum(sequence.loss_mask),
                "first_step": sequence.first_step,
                "last_step": sequence.last_step,
                "stretches": stretches,
            }
        )
    return {"sequences": found, "left_out": left_out, "missing": None}


def _split_sequence(episode: EpisodeRecord, sequence: Sequence) -> list[dict[str, Any]]:
    """The stretches of a sequence: for each of its steps what was added to the prompt, then its sample."""
    stretches: list[dict[str, Any]] = []
    at = 0
    for step in _steps_of(episode, sequence):
        ends = [(len(step.prompt_token_ids or []), False)]
        ends.append((ends[0][0] + len(step.completion_token_ids or []), True))
        for end, trained in ends:
            if end > at:
                stretches.append(
                    {
                        "step": step.step_index,
                        "agent": step.agent,
                        "version": step.policy_version,
                        "trained": trained,
                        "ids": sequence.input_ids[at:end],
                        "logprobs": sequence.logprobs[at:end] if trained else None,
                    }
                )
            at = max(at, end)
    return stretches


def _steps_of(episode: EpisodeRecord, sequence: Sequence) -> list[StepRecord]:
    return [
        step
        for step in episode.steps
        if step.branch == sequence.branch and sequence.first_step <= step.step_index <= sequence.last_step
    ]
