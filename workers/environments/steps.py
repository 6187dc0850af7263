"""A finished (or broken off) verifiers state, as steps and messages."""

from typing import Any

from workers.environments.base import Rollout
from workers.environments.json_text import json_text
from workers.environments.messages import Conversation
from workers.environments.tool_schemas import comes_from_arrow, tool_fields
from workers.environments.tracing import EpisodeTrace, Turn
from workers.records import Message, StepRecord, Usage


def rollout(state: Any, trace: EpisodeTrace) -> Rollout:
    """What an episode came to, from verifiers' state and our own notes."""
    metrics: dict[str, float | None] = dict(state.get("metrics") or {})
    if trace.session is not None and trace.session.scores is not None:
        metrics |= trace.session.scores.metrics  # which know what does not apply
    tools: list[Any] = state.get("tool_defs") or []
    from_arrow = comes_from_arrow(state, trace.row_is_arrow)
    conversation = Conversation()
    return Rollout(
        messages=_messages(state, trace, conversation),
        tool_schemas=json_text([tool_fields(tool, from_arrow) for tool in tools]),
        steps=_steps(state, trace, conversation),
        reward=state.get("reward"),
        metrics=metrics,
        stop_reason=state.get("stop_condition"),
        is_truncated=bool(state.get("is_truncated")),
    )


def _messages(state: Any, trace: EpisodeTrace, conversation: Conversation) -> list[Message]:
    """The whole conversation: as it was sent, where that is the conversation that the environment gives."""
    messages = [*conversation.records(state["prompt"]), *conversation.records(state.get("completion"))]
    trajectory: list[Any] = state.get("trajectory") or []
    last = trace.exchange_of(trajectory[-1].get("response")) if trajectory else None
    if last is None:
        return messages
    sent = [*last.prompt, last.action, *conversation.records(state.get("final_env_response"))]
    return sent if len(sent) == len(messages) else messages


def steps(state: Any, trace: EpisodeTrace) -> list[StepRecord]:
    """The turns so far. Also for an episode that failed in the middle."""
    return _steps(state, trace, Conversation())


def _steps(state: Any, trace: EpisodeTrace, conversation: Conversation) -> list[StepRecord]:
    trajectory: list[Any] = state.get("trajectory") or []
    return [_step(state, trajectory, index, trace, conversation) for index in range(len(trajectory))]


def _step(
    state: Any, trajectory: list[Any], index: int, trace: EpisodeTrace, conversation: Conversation
) -> StepRecord:
    step, turn = trajectory[index], _turn(trace, index)
    is_last = index == len(trajectory) - 1
    response = step.get("response")
    exchange = trace.exchange_of(response)
    prompt = _prompt(step, trace, conversation)
    completion = conversation.records(step["completion"]) if exchange is None else [exchange.action]
    following = None if is_last else _prompt(trajectory[index + 1], trace, conversation)
    tokens = step.get("tokens")
    no_logprobs = exchange.no_logprobs if exchange is not None else None
    usage = getattr(response, "usage", None)
    return StepRecord(
        step_index=index,
        prompt_messages=prompt,
        action=completion[-1] if completion else Message(role="assistant"),
        observations=_observations(state, conversation, [*prompt, *completion], following),
        state_patch=_patch(trace, turn.first_call, turn.last_call),
        reward=trace.step_rewards[index] if index < len(trace.step_rewards) else None,
        done=is_last and state.get("completion") is not None,
        prompt_token_ids=list(tokens["prompt_ids"]) if tokens else None,
        completion_token_ids=list(tokens["completion_ids"]) if tokens else None,
        completion_logprobs=list(tokens["completion_logprobs"]) if tokens and no_logprobs is None else None,
        no_logprobs=no_logprobs,
        policy_version=turn.policy_version,
        finish_reason=getattr(getattr(response, "message", None), "finish_reason", None),
        usage=Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        if usage
        else None,
        policy_seconds=turn.policy_seconds,
        tools_seconds=turn.tools_seconds,
    )


def _prompt(step: Any, trace: EpisodeTrace, conversation: Conversation) -> list[Message]:
    """What the policy was sent in a turn; where nobody noted that, what the environment says of it."""
    exchange = trace.exchange_of(step.get("response"))
    return conversation.records(step["prompt"]) if exchange is None else exchange.prompt


def _turn(trace: EpisodeTrace, index: int) -> Turn:
    return trace.turns[index] if index < len(trace.turns) else Turn()


def _observations(
    state: Any, conversation: Conversation, seen: list[Message], following: list[Message] | None
) -> list[Message]:
    """What the environment answered: what the next prompt has beyond this turn's, where it extends it."""
    if following is None:
        final = state.get("final_env_response")
        return conversation.records(final) if final else []
    before = following[: len(seen)]
    if before == seen or [_outline(message) for message in before] == [_outline(message) for message in seen]:
        return following[len(seen) :]
    return []


def _outline(message: Message) -> Any:
    """A message without the arguments of its calls: a server may refuse those that are no JSON."""
    calls = [(call.id, call.function.name) for call in message.tool_calls or []]
    return message.role, message.content, message.reasoning_content, calls, message.tool_call_id


def _patch(trace: EpisodeTrace, first: int, last: int) -> str | None:
    """The state patches of a turn's tool calls, one after the other. The first patch is the set-up's."""
    scores = trace.session.scores if trace.session else None
    if scores is None:
        return None
    patches = scores.patches[1 + first : 1 + last]
    if any(patch is None for patch in scores.patches):
        return None
    return json_text([operation for patch in patches for operation in patch or []])


def initial_patch(trace: EpisodeTrace) -> str | None:
    """The patch from the base state to the one in which the episode began."""
    scores = trace.session.scores if trace.session else None
    if scores is None or not scores.patches or scores.patches[0] is None:
        return None
    return json_text(scores.patches[0])
