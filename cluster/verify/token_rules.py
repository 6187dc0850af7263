"""What must hold of one step's tokens; each check gives what is wrong, or None."""

import math

from workers.records import EpisodeRecord, StepRecord, Usage
from workers.settings import SamplingSettings

_FEWEST_ZEROS = 8
"""Tokens of which a policy that samples freely is not quite certain of one, at least."""
_LOWEST_TEMPERATURE = 0.9
"""Below, a likely token's share is soon 1 in 32 bits. Greedy sampling (0) divides no logits."""
_NARROWING = ("top_k", "min_p", "allowed_token_ids", "bad_words", "logit_bias", "response_format")
_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


def check_lengths(step: StepRecord, *, gives_ids: bool = False) -> str | None:
    """Whether a step's ids, log-probabilities and usage agree in length.

    Args:
        step: The step.
        gives_ids: Whether the run's policy gives ids with every action.
    """
    usage = step.usage
    if usage and (usage.prompt_tokens < 0 or usage.completion_tokens < 0):
        return f"the policy counts {usage.prompt_tokens} and {usage.completion_tokens} tokens"
    given = (step.prompt_token_ids, step.completion_token_ids, step.completion_logprobs)
    if all(part is None for part in given):
        if gives_ids:
            return "it has no ids and no log-probabilities, and the run's policy gives them with every action"
        return None
    prompt, sampled, logprobs = given
    if prompt is None or sampled is None or logprobs is None:
        return "some of prompt ids, sampled ids and log-probabilities are null, and some are not"
    if len(sampled) != len(logprobs):
        return f"{len(sampled)} sampled ids, {len(logprobs)} log-probabilities"
    if not prompt:
        return "the prompt has no ids"
    if any(i < 0 for i in (*prompt, *sampled)):
        return "a token id is below 0"
    if any(not math.isfinite(logprob) or logprob > 1e-6 for logprob in logprobs):
        return "a log-probability is above 0, or not finite"
    if usage and (usage.prompt_tokens, usage.completion_tokens) != (len(prompt), len(sampled)):
        return (
            f"{len(prompt)} prompt and {len(sampled)} sampled ids, and the policy counts "
            f"{usage.prompt_tokens} and {usage.completion_tokens}"
        )
    if usage is None and gives_ids:
        return "it has no usage, and the run's policy counts its tokens"
    return None


def check_zeros(step: StepRecord, sampling: SamplingSettings, extra_body: dict[str, object]) -> str | None:
    """Whether all of a step's log-probabilities are 0, where nothing narrowed what could be sampled."""
    logprobs = step.completion_logprobs or []
    if len(logprobs) < _FEWEST_ZEROS or any(logprobs):
        return None
    if sampling.top_p not in (None, 1.0) or sampling.tool_choice == "required" or is_sharpened(sampling):
        return None
    if any(name in extra_body for name in (*_NARROWING, *_GRAMMARS)):
        return None
    return f"all of its {len(logprobs)} log-probabilities are 0, as if nothing else could have been sampled"


def is_sharpened(sampling: SamplingSettings) -> bool:
    """Whether a temperature makes a token that is likely certain."""
    return 0.0 < sampling.temperature < _LOWEST_TEMPERATURE


def messages_continue(before: StepRecord, step: StepRecord) -> bool:
    """Whether a step's messages are the step before's, its action, and more."""
    so_far = [*before.prompt_messages, before.action]
    return step.prompt_messages[: len(so_far)] == so_far


def prompt_continues(before: StepRecord, step: StepRecord) -> bool:
    """Whether a step's prompt begins with the prompt and the sampled ids of the step before."""
    so_far = [*(before.prompt_token_ids or []), *(before.completion_token_ids or [])]
    return (step.prompt_token_ids or [])[: len(so_far)] == so_far


def check_usage(episode: EpisodeRecord) -> str | None:
    """Whether an episode's usage is that of its steps together."""
    total = Usage()
    for step in episode.steps:
        if step.usage is not None:
            total.prompt_tokens += step.usage.prompt_tokens
            total.completion_tokens += step.usage.completion_tokens
            if step.usage.cached_tokens is not None:
                total.cached_tokens = (total.cached_tokens or 0) + step.usage.cached_tokens
    if episode.usage == total:
        return None
    return f"it is {_tokens(episode.usage)}, and its steps' come to {_tokens(total)}"


def _tokens(usage: Usage) -> str:
    cached = "" if usage.cached_tokens is None else f", {usage.cached_tokens} of the prompts' cached"
    return f"{usage.prompt_tokens} and {usage.completion_tokens} tokens{cached}"
