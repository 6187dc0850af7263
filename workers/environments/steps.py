"""A finished (or broken off) verifiers state, as steps and messages."""

from typing import Any

from workers.environments.base import Rollout
from workers.environments.json_text import json_text
from workers.environments.messages import Conversation
from workers.environments.tracing import EpisodeTrace, Turn
from workers.records import Message, StepRecord, Usage


def rollout(state: Any, trace: EpisodeTrace) -> Rollout:
    """What an episode came to, from verifiers' state and our own notes."""
    metrics: dict[str, float | None] = dict(state.get("metrics") or {})
    if trace.session is not None and trace.session.scores is not None:
        metrics |= trace.session.scores.metrics  # which know what does not apply
    conversation = Conversation()
    return Rollout(
        messages=[*conversation.records(state["prompt"]), *conversation.records(state.get("completion"))],
        tool_schemas=tool_schemas(state),
        steps=_steps(state, trace, conversation),
        reward=state.get("reward"),
        metrics=metrics,
        stop_reason=state.get("stop_condition"),
        is_truncated=bool(state.get("is_truncated")),
    )


def tool_schemas(state: Any) -> str:
    """The tools that the policy was offered, as JSON text."""
    tools: list[Any] = state.get("tool_defs") or []
    return f"[{','.join(tool.model_dump_json(exclude_none=True) for tool in tools)}]"


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
    prompt = conversation.records(step["prompt"])
    completion = conversation.records(step["completion"])
    following = conversation.records(trajectory[index + 1]["prompt"]) if not is_last else None
    tokens = step.get("tokens")
    response = step.get("response")
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
        completion_logprobs=list(tokens["completion_logprobs"]) if tokens else None,
        policy_version=turn.policy_version,
        finish_reason=getattr(getattr(response, "message", None), "finish_reason", None),
        usage=Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        if usage
        else None,
        policy_seconds=turn.policy_seconds,
        tools_seconds=turn.tools_seconds,
    )


def _turn(trace: EpisodeTrace, index: int) -> Turn:
    return trace.turns[index] if index < len(trace.turns) else Turn()


def _observations(
    state: Any, conversation: Conversation, seen: list[Message], following: list[Message] | None
) -> list[Message]:
    """What the environment answered: what the next prompt has beyond this turn's, where it extends it."""
    if following is None:
        final = state.get("final_env_response")
        return conversation.records(final) if final else []
    if following[: len(seen)] == seen:
        return following[len(seen) :]
    return []


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
