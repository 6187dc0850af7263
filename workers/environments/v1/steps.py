"""What verifiers' v1 runner has recorded of an episode, as steps and messages."""

import math
from typing import Any

from workers.environments.base import Rollout
from workers.environments.json_text import json_text
from workers.environments.messages import to_record
from workers.environments.v1.play import Call, Play
from workers.errors import ScoringError
from workers.policy.answers import find_unusable_logprobs
from workers.policy.endpoint import NO_TOKENS_REASON
from workers.records import Message, StepRecord

_AGENT = "agent"


def make_rollout(play: Play, trace: Any, asks_tokens: bool) -> Rollout:
    """What an episode came to.

    Args:
        play: Our notes of it.
        trace: verifiers' trace of its one agent.
        asks_tokens: Whether the policy was asked for token ids.

    Raises:
        ScoringError: A reward is no finite number.
    """
    rewards = {name: reward for name, reward in trace.rewards.items() if reward is not None}
    scores = {str(name): float(reward.score) for name, reward in rewards.items()}
    for name, score in scores.items():
        if not math.isfinite(score):
            raise ScoringError(f"the reward {name!r} is {score}, which is no finite number")
    metrics = {str(name): _finite(value) for name, value in trace.metrics.items()}
    return Rollout(
        messages=[to_record(message) for message in trace.messages],
        tool_schemas=tool_schemas(trace),
        steps=make_steps(play, trace, asks_tokens, ended=True),
        reward=float(trace.reward),
        metrics={**scores, **metrics},
        stop_reason=trace.stop_condition,
        is_truncated=bool(trace.is_truncated),
    )


def tool_schemas(trace: Any) -> str:
    """The tools that the policy was offered, as JSON text."""
    return json_text([tool.model_dump(exclude_none=True) for tool in trace.tools])


def make_steps(play: Play, trace: Any, asks_tokens: bool, *, ended: bool) -> list[StepRecord]:
    """A step for every turn on verifiers' message graph; its branches are ours.

    Args:
        play: Our notes of the episode.
        trace: verifiers' trace.
        asks_tokens: Whether the policy was asked for token ids.
        ended: Whether the episode came to its end.
    """
    turns = [
        (record.node, call)
        for record, call in zip(trace.calls, play.calls.get(trace.id, []), strict=False)
        if record.node is not None and call.action is not None
    ]
    step_of = {node: index for index, (node, _) in enumerate(turns)}
    branches = _Branches()
    steps: list[StepRecord] = []
    for index, (node, call) in enumerate(turns):
        parent = _turn_before(trace, node, step_of)
        branch = branches.place(index, parent)
        if parent is not None and steps[parent].branch == branch:
            steps[parent].observations = _observations(steps[parent], call)
        steps.append(_make_step(index, call, asks_tokens, branch, parent, trace))
    if ended and steps:
        steps[-1].done = True
    return steps


class _Branches:
    """Which branch a turn is of: the first to go on from a turn stays in that turn's, another begins one."""

    def __init__(self) -> None:
        self._of: list[int] = []
        self._gone_on: set[int] = set()
        self._made = 0

    def place(self, index: int, parent: int | None) -> int:
        """The branch of a turn that goes on from an earlier one, or from none."""
        if parent is not None and parent not in self._gone_on:
            self._gone_on.add(parent)
            branch = self._of[parent]
        else:
            branch, self._made = self._made, self._made + 1
        assert index == len(self._of)
        self._of.append(branch)
        return branch


def _turn_before(trace: Any, node: int, step_of: dict[int, int]) -> int | None:
    """The step that a turn goes on from, on the way to the graph's root."""
    parent: int | None = trace.nodes[node].parent
    while parent is not None and parent not in step_of:
        parent = trace.nodes[parent].parent
    return None if parent is None else step_of[parent]


def _observations(step: StepRecord, following: Call) -> list[Message]:
    """What came between a turn and the one that goes on from it."""
    return following.prompt[len(step.prompt_messages) + 1 :]


def _make_step(
    index: int, call: Call, asks_tokens: bool, branch: int, parent: int | None, trace: Any
) -> StepRecord:
    assert call.action is not None
    choice = call.completion.choices[0]
    prompt_ids, ids, logprobs, missing = _read_tokens(call.completion) if asks_tokens else (None,) * 4
    offered = {tool.name for tool in trace.tools}
    return StepRecord(
        step_index=index,
        prompt_messages=call.prompt,
        action=call.action,
        observations=[],
        done=False,
        prompt_token_ids=prompt_ids,
        completion_token_ids=ids,
        completion_logprobs=logprobs,
        no_logprobs=missing,
        tools=None if set(call.tools) == offered else list(call.tools),
        policy_version=call.policy_version,
        finish_reason=choice.finish_reason,
        usage=call.usage,
        policy_seconds=call.seconds,
        agent=_AGENT,
        branch=branch,
        parent_step=parent,
        dialect="chat",
    )


def _read_tokens(
    completion: Any,
) -> tuple[list[int] | None, list[int] | None, list[float] | None, str | None]:
    """A turn's ids and log-probabilities, or why there are none."""
    choice = completion.choices[0]
    prompt_ids: Any = getattr(completion, "prompt_token_ids", None)
    ids: Any = getattr(choice, "token_ids", None)
    content: Any = getattr(choice.logprobs, "content", None) if choice.logprobs is not None else None
    if not prompt_ids or ids is None or content is None:
        return None, None, None, NO_TOKENS_REASON
    logprobs = [float(entry.logprob) for entry in content]
    missing = find_unusable_logprobs(ids, logprobs)
    return (list(prompt_ids), list(ids), logprobs, None) if missing is None else (None, None, None, missing)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
