"""A finished (or broken off) verifiers state, as steps and messages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import verifiers as vf

from workers.environments.base import Rollout
from workers.environments.json_text import json_text
from workers.environments.messages import Conversation
from workers.environments.sendable import clean_text
from workers.environments.tool_schemas import comes_from_arrow, tool_fields
from workers.environments.tracing import EpisodeTrace, Turn
from workers.policy.answers import find_unusable_logprobs
from workers.records import Message, StepRecord, Usage


def to_number(value: Any) -> float | None:
    """A reward or metric as a record has it, be it a number of numpy's or torch's; None where it is none."""
    if value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def make_rollout(state: Any, trace: EpisodeTrace) -> Rollout:
    """What an episode came to, from verifiers' state and our own notes."""
    metrics = finite_metrics(state.get("metrics"))
    if trace.session is not None and trace.session.scores is not None:
        metrics |= trace.session.scores.metrics  # which know what does not apply
    conversation = Conversation()
    return Rollout(
        messages=_conversation_messages(state, trace, conversation),
        tool_schemas=tool_schemas(state, trace),
        steps=_make_all_steps(state, trace, conversation),
        reward=to_number(state.get("reward")),
        metrics=metrics,
        stop_reason=to_text(state.get("stop_condition")),
        is_truncated=bool(state.get("is_truncated")),
    )


def tool_schemas(state: Any, trace: EpisodeTrace) -> str:
    """The tools that the policy was offered in any turn, as JSON text. What is no tool stands as it is."""
    tools: Any = list(trace.offered.values()) or state.get("tool_defs")
    if not isinstance(tools, (list, tuple)):
        return "[]"  # verifiers offers none of it
    from_arrow = comes_from_arrow(state, trace.row_is_arrow)
    return json_text(
        [
            tool_fields(tool, from_arrow) if isinstance(tool, vf.Tool) else tool
            for tool in cast(Sequence[Any], tools)
        ]
    )


def _conversation_messages(state: Any, trace: EpisodeTrace, conversation: Conversation) -> list[Message]:
    """The whole conversation: as it was sent, where that is the conversation that the environment gives.

    An environment with a `render_completion` of its own may give another. Texts do not tell the two apart:
    those that were sent stay on record, whatever the environment has done to its own since.
    """
    messages = [*conversation.records(state["prompt"]), *conversation.records(state.get("completion"))]
    trajectory: list[Any] = state.get("trajectory") or []
    last = trace.exchange_of(trajectory[-1].get("response")) if trajectory else None
    if last is None:
        return messages
    sent = [*last.prompt, last.action, *conversation.records(state.get("final_env_response"))]
    return (
        sent
        if [_message_identity(each) for each in sent] == [_message_identity(each) for each in messages]
        else messages
    )


def _message_identity(message: Message) -> Any:
    """Whose message it is, and which calls it makes or answers."""
    return message.role, [call.id for call in message.tool_calls or []], message.tool_call_id


def finite_metrics(metrics: Any) -> dict[str, float | None]:
    """An environment's metrics; what is no finite number among them is null."""
    if not isinstance(metrics, Mapping):
        return {}
    found = cast(Mapping[Any, Any], metrics)
    return {to_text(name) or "": to_number(value) for name, value in found.items()}


def to_text(value: Any) -> str | None:
    """Anything as a text that can be written; None stays None, and text stays itself."""
    if value is None:
        return None
    if not isinstance(value, str):
        try:
            value = str(value)
        except Exception:  # noqa: BLE001 - a `__str__` of somebody's own
            value = f"<{type(value).__name__}>"
    return clean_text(value)


def make_steps(state: Any, trace: EpisodeTrace) -> list[StepRecord]:
    """The turns so far. Also for an episode that failed in the middle."""
    return _make_all_steps(state, trace, Conversation())


def _make_all_steps(state: Any, trace: EpisodeTrace, conversation: Conversation) -> list[StepRecord]:
    trajectory: list[Any] = state.get("trajectory") or []
    following = _next_in_branch(trace, len(trajectory))
    return [
        _make_step(state, trajectory, index, after, trace, conversation)
        for index, after in enumerate(following)
    ]


def _make_step(
    state: Any,
    trajectory: list[Any],
    index: int,
    after: int | None,
    trace: EpisodeTrace,
    conversation: Conversation,
) -> StepRecord:
    step, turn = trajectory[index], _turn_at(trace, index)
    is_last = index == len(trajectory) - 1
    tokens = _read_tokens(step.get("tokens"))
    response = step.get("response")
    exchange = trace.exchange_of(response)
    prompt = _step_prompt(step, trace, conversation)
    completion = conversation.records(step["completion"]) if exchange is None else [exchange.action]
    following = None if after is None else _step_prompt(trajectory[after], trace, conversation)
    usage = getattr(response, "usage", None)
    return StepRecord(
        step_index=index,
        prompt_messages=prompt,
        action=completion[-1] if completion else Message(role="assistant"),
        observations=_find_observations(
            state if is_last else {}, conversation, [*prompt, *completion], following
        ),
        tool_errors=turn.tool_errors,
        state_patch=_join_patches(trace, turn.first_call, turn.last_call),
        reward=trace.step_rewards[index] if index < len(trace.step_rewards) else None,
        done=is_last and state.get("completion") is not None,
        prompt_token_ids=tokens.prompt_ids,
        completion_token_ids=tokens.completion_ids,
        completion_logprobs=tokens.logprobs,
        no_logprobs=tokens.missing or (exchange.no_logprobs if exchange is not None else None),
        tools=None if turn.tools in (None, tuple(trace.offered)) else list(turn.tools or ()),
        policy_version=turn.policy_version,
        finish_reason=to_text(getattr(getattr(response, "message", None), "finish_reason", None)),
        usage=_read_usage(usage) if usage else None,
        policy_seconds=turn.policy_seconds,
        tools_seconds=turn.tools_seconds,
        agent=turn.agent,
        branch=turn.branch,
        parent_step=turn.parent_step,
        dialect=cast(Any, turn.dialect),
        asked=turn.asked,
    )


def _next_in_branch(trace: EpisodeTrace, steps: int) -> list[int | None]:
    """For each step the one that follows it in its branch; None where it is the last."""
    following: list[int | None] = [None] * steps
    first_after: dict[int | None, int] = {}
    for index in reversed(range(steps)):
        branch = _turn_at(trace, index).branch
        following[index] = first_after.get(branch)
        first_after[branch] = index
    return following


def _step_prompt(step: Any, trace: EpisodeTrace, conversation: Conversation) -> list[Message]:
    """What the policy was sent in a turn; where nobody noted that, what the environment says of it."""
    exchange = trace.exchange_of(step.get("response"))
    return conversation.records(step["prompt"]) if exchange is None else exchange.prompt


@dataclass(frozen=True)
class _TokenColumns:
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None
    missing: str | None = None
    """Why there are no log-probabilities."""


def _read_tokens(tokens: Any) -> _TokenColumns:
    """A step's ids and log-probabilities; those that are no numbers, or not one per id, are none at all."""
    if not tokens:
        return _TokenColumns()
    try:
        prompt_ids, ids = [[int(each) for each in tokens[name]] for name in ("prompt_ids", "completion_ids")]
        logprobs: list[Any] = tokens.get("completion_logprobs") or []
        given = [float(each) for each in logprobs]
    except (KeyError, TypeError, ValueError) as error:
        return _TokenColumns(
            missing=f"what the policy gave are no token ids, or no log-probabilities: {error!r}"
        )
    missing = find_unusable_logprobs(ids, given)
    # Of a step's ids and log-probabilities, a dataset has all or none.
    return _TokenColumns(prompt_ids, ids, given) if missing is None else _TokenColumns(missing=missing)


def _read_usage(usage: Any) -> Usage:
    prompt, completion = to_number(usage.prompt_tokens), to_number(usage.completion_tokens)
    cached = to_number(getattr(usage, "cached_tokens", None))
    return Usage(
        prompt_tokens=int(prompt or 0),
        completion_tokens=int(completion or 0),
        cached_tokens=None if cached is None else int(cached),
    )


def _turn_at(trace: EpisodeTrace, index: int) -> Turn:
    return trace.turns[index] if index < len(trace.turns) else Turn()


def _find_observations(
    state: Any, conversation: Conversation, seen: list[Message], following: list[Message] | None
) -> list[Message]:
    """What the environment answered: what the next prompt has beyond this turn's, where it extends it."""
    if following is None:
        final = state.get("final_env_response")
        return conversation.records(final) if final else []
    before = following[: len(seen)]
    if before == seen or [_message_outline(message) for message in before] == [
        _message_outline(message) for message in seen
    ]:
        return following[len(seen) :]
    return []


def _message_outline(message: Message) -> Any:
    """A message without the arguments of its calls: a server may refuse those that are no JSON."""
    calls = [(call.id, call.function.name) for call in message.tool_calls or []]
    return message.role, message.content, message.reasoning_content, calls, message.tool_call_id


def _join_patches(trace: EpisodeTrace, first: int, last: int) -> str | None:
    """The state patches of a turn's tool calls, one after the other. The first patch is the set-up's."""
    scores = trace.session.scores if trace.session else None
    if scores is None:
        return None
    patches = scores.patches[1 + first : 1 + last]
    if any(patch is None for patch in scores.patches):
        return None
    return json_text([operation for patch in patches for operation in patch or []])
