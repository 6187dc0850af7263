"""What verifiers' v1 runner has recorded of an episode, as steps and messages."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from workers.agent_results import AgentResult
from workers.environments.base import Rollout
from workers.environments.json_text import json_text
from workers.environments.messages import to_record
from workers.environments.v1.play import Call, Play
from workers.environments.v1.seats import Seat
from workers.errors import ScoringError
from workers.policy.answers import find_unusable_logprobs
from workers.policy.endpoint import NO_TOKENS_REASON
from workers.records import Message, StepRecord


def make_rollout(play: Play, traces: list[Any], seats: Mapping[str, Seat], asks_tokens: bool) -> Rollout:
    """What an episode came to.

    Its reward is that of its main seat: the mean, where that seat has played several times.

    Args:
        play: Our notes of it.
        traces: verifiers' traces, one for each time that a seat has played.
        seats: The environment's seats, in order.
        asks_tokens: Whether the policy was asked for token ids.

    Raises:
        ScoringError: A reward is no finite number.
    """
    steps = make_steps(play, traces, seats, asks_tokens, ended=True)
    main = [trace for trace in traces if trace.agent.name == main_seat(traces, seats)]
    metrics: dict[str, float | None] = {}
    for name in dict.fromkeys(trace.agent.name for trace in [*main, *traces]):
        prefix = "" if name == main[0].agent.name else f"{name}/"
        figures = [_figures_of(trace) for trace in traces if trace.agent.name == name]
        for figure in dict.fromkeys(key for each in figures for key in each):
            metrics[f"{prefix}{figure}"] = _mean([each.get(figure) for each in figures])
    return Rollout(
        messages=[to_record(message) for message in main[0].messages],
        tool_schemas=tool_schemas(traces),
        steps=steps,
        reward=_mean([float(trace.reward) for trace in main]),
        metrics=metrics,
        stop_reason=main[0].stop_condition,
        is_truncated=any(trace.is_truncated for trace in main),
        agents=_agent_results(play, traces, seats) if len(seats) > 1 or len(traces) > 1 else None,
        details=_details(traces),
    )


def _details(traces: list[Any]) -> dict[str, Any] | None:
    """What the hooks of each trace's task have noted, as verifiers records it."""
    noted = [
        {
            "agent": trace.agent.name,
            "info": json.loads(to_json(trace.info, inf_nan_mode="null", fallback=str)),
        }
        for trace in traces
        if trace.info
    ]
    return {"info": noted} if noted else None


def main_seat(traces: list[Any], seats: Mapping[str, Seat]) -> str:
    """The first of the seats that the run's own policy plays to learn from, or else the first of all."""
    learning = {trace.agent.name for trace in traces if is_trainable(trace, seats)}
    played = {trace.agent.name for trace in traces}
    return next(name for names in (learning, played) for name in seats if name in names)


def is_trainable(trace: Any, seats: Mapping[str, Seat]) -> bool:
    """Whether a trace is the run's own policy's, and the environment lets it be learnt from."""
    return bool(trace.agent.trainable) and seats[trace.agent.name].policy is None


def _agent_results(play: Play, traces: list[Any], seats: Mapping[str, Seat]) -> list[AgentResult]:
    """What each seat came to, each time that it has played."""
    branches: dict[int, list[int]] = {}
    for turn in _lay_out(play, traces):
        branches.setdefault(turn.trace_number, []).append(turn.branch)
    return [
        AgentResult(
            agent=trace.agent.name,
            policy=seats[trace.agent.name].policy,
            trainable=is_trainable(trace, seats),
            branches=sorted(set(branches.get(number, []))),
            reward=float(trace.reward),
            metrics=_figures_of(trace),
            stop_reason=trace.stop_condition,
        )
        for number, trace in enumerate(traces)
    ]


def tool_schemas(traces: list[Any]) -> str:
    """The tools that the policies were offered, as JSON text."""
    tools = {tool.name: tool.model_dump(exclude_none=True) for trace in traces for tool in trace.tools}
    return json_text(list(tools.values()))


def _figures_of(trace: Any) -> dict[str, float | None]:
    """A trace's scores and metrics, by their names.

    Raises:
        ScoringError: A score is no finite number.
    """
    scores = {str(name): float(reward.score) for name, reward in trace.rewards.items() if reward is not None}
    for name, score in scores.items():
        if not math.isfinite(score):
            raise ScoringError(f"the reward {name!r} is {score}, which is no finite number")
    return {**scores, **{str(name): _finite(value) for name, value in trace.metrics.items()}}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def make_steps(
    play: Play, traces: list[Any], seats: Mapping[str, Seat], asks_tokens: bool, *, ended: bool
) -> list[StepRecord]:
    """A step for every turn on verifiers' message graphs, in the order in which they were asked for.

    Args:
        play: Our notes of the episode.
        traces: verifiers' traces.
        seats: The environment's seats.
        asks_tokens: Whether the policies were asked for token ids.
        ended: Whether the episode came to its end.
    """
    turns = _lay_out(play, traces)
    place = {(turn.trace_number, turn.index): number for number, turn in enumerate(turns)}
    steps: list[StepRecord] = []
    for number, turn in enumerate(turns):
        parent = None if turn.parent is None else place[turn.trace_number, turn.parent]
        step = _make_step(number, turn, asks_tokens, parent, seats)
        if parent is not None and steps[parent].branch == step.branch:
            steps[parent].observations = _observations(steps[parent], turn.call)
        steps.append(step)
    if ended and steps:
        steps[-1].done = True
    return steps


@dataclass(frozen=True)
class _Turn:
    """One turn of a trace."""

    call: Call
    trace: Any
    trace_number: int
    index: int
    """Its place among the turns of its trace."""
    parent: int | None
    """The place of the turn that it goes on from."""
    branch: int
    """Which of its agent's conversations it is of."""


def _lay_out(play: Play, traces: list[Any]) -> list[_Turn]:
    """All turns, in the order in which they were asked for, each in its branch."""
    turns: list[_Turn] = []
    branches: dict[str, _Branches] = {}
    for number, trace in enumerate(traces):
        found = [
            (record.node, call)
            for record, call in zip(trace.calls, play.calls.get(trace.id, []), strict=False)
            if record.node is not None and call.action is not None
        ]
        index_of = {node: index for index, (node, _) in enumerate(found)}
        of_agent = branches.setdefault(trace.agent.name, _Branches())
        of_agent.begin_conversation()
        for index, (node, call) in enumerate(found):
            parent = _turn_before(trace, node, index_of)
            branch = of_agent.place(index, parent)
            turns.append(_Turn(call, trace, number, index, parent, branch))
    return sorted(turns, key=lambda turn: turn.call.number)


class _Branches:
    """Which branch a turn is of: the first to go on from a turn stays in that turn's, another begins one."""

    def __init__(self) -> None:
        self._of: list[int] = []
        self._gone_on: set[int] = set()
        self._made = 0

    def begin_conversation(self) -> None:
        """From here on, turns are those of another trace of the same agent."""
        self._of, self._gone_on = [], set()

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
    index: int, turn: _Turn, asks_tokens: bool, parent: int | None, seats: Mapping[str, Seat]
) -> StepRecord:
    call, trace = turn.call, turn.trace
    assert call.action is not None
    choice = call.completion.choices[0]
    prompt_ids, ids, logprobs, missing = (
        _read_tokens(call.completion) if asks_tokens and call.policy is None else (None,) * 4
    )
    offered = {tool.name for tool in trace.tools}
    return StepRecord(
        step_index=index,
        prompt_messages=call.prompt,
        action=call.action,
        observations=[],
        tool_errors=_tool_errors(call),
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
        tools_seconds=call.tools_seconds,
        agent=trace.agent.name,
        branch=turn.branch,
        parent_step=parent,
        policy=call.policy,
        trainable=None if is_trainable(trace, seats) else False,
        dialect="chat",
    )


def _tool_errors(call: Call) -> list[bool] | None:
    """Of each tool call of the action, whether its result was an error; None where one was not run."""
    known = [error for error in call.tool_errors if error is not None]
    made = len(call.action.tool_calls or []) if call.action is not None else 0
    return known if known and len(known) == made else None


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
