"""What must hold of one step's tokens; each check gives what is wrong, or None."""

import math
from collections.abc import Sequence
from typing import Any

from workers.chat_template import ChatTemplate
from workers.errors import TemplateError
from workers.records import EpisodeRecord, Message, StepRecord


def lengths(step: StepRecord) -> str | None:
    given = (step.prompt_token_ids, step.completion_token_ids, step.completion_logprobs)
    if all(part is None for part in given):
        return None
    prompt, sampled, logprobs = given
    if prompt is None or sampled is None or logprobs is None:
        return "some of prompt ids, sampled ids and log-probabilities are null, and some are not"
    if len(sampled) != len(logprobs):
        return f"{len(sampled)} sampled ids, {len(logprobs)} log-probabilities"
    if any(not math.isfinite(logprob) or logprob > 1e-6 for logprob in logprobs):
        return "a log-probability is above 0, or not finite"
    usage = step.usage
    if usage and (usage.prompt_tokens, usage.completion_tokens) != (len(prompt), len(sampled)):
        return (
            f"{len(prompt)} prompt and {len(sampled)} sampled ids, and the policy counts "
            f"{usage.prompt_tokens} and {usage.completion_tokens}"
        )
    return None


def prompt_of(
    episode: EpisodeRecord, before: StepRecord | None, step: StepRecord, template: ChatTemplate
) -> str | None:
    tools = episode.tools
    prompt = step.prompt_token_ids or []
    expected = template.ids(_plain(step.prompt_messages), tools)
    if prompt == expected:
        return None
    if before is not None and continues(before, step):
        # What the policy wrote stands as it wrote it, which need not be as the template would write it.
        following = step.prompt_messages[len(before.prompt_messages) + 1 :]
        try:
            extended = template.extended(
                before.prompt_token_ids or [], before.completion_token_ids or [], _plain(following), tools
            )
        except TemplateError as error:
            return str(error)
        if prompt == extended:
            return None
        expected = extended
    return _first_difference(prompt, expected, template)


def _first_difference(got: Sequence[int], expected: Sequence[int], template: ChatTemplate) -> str:
    place = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), None)
    if place is None:
        place = min(len(got), len(expected))
    shown = [repr(template.decode(ids[place : place + 8])) for ids in (got, expected)]
    return f"differs from token {place} on: {shown[0]} in place of {shown[1]}"


def goes_on(before: StepRecord, step: StepRecord) -> bool:
    """Whether a step's messages are the step before's, its action, and more."""
    so_far = [*before.prompt_messages, before.action]
    return step.prompt_messages[: len(so_far)] == so_far


def continues(before: StepRecord, step: StepRecord) -> bool:
    so_far = [*(before.prompt_token_ids or []), *(before.completion_token_ids or [])]
    return (step.prompt_token_ids or [])[: len(so_far)] == so_far


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in messages]
