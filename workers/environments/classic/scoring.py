"""Scoring as verifiers does it: what it calls is called once, in its order; and no failure is a 0.0.

verifiers calls a reward function's failure a reward of 0, and its JudgeRubric looks for the question in
dictionaries only, where it has messages that are none. Both are seen to here, in verifiers' own classes, so
that rubrics of any kind and nesting have it.
"""

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import verifiers as vf
from pydantic import BaseModel
from verifiers.legacy.envs.env_group import EnvGroupRubric
from verifiers.legacy.rubrics.judge_rubric import JudgeRubric
from verifiers.legacy.rubrics.rubric import Rubric

from workers.cancellation import is_being_cancelled
from workers.environments import tracing
from workers.environments.classic.outages import classify_outage
from workers.errors import EnvironmentExit, EnvironmentInfraError, EpisodeFailed, SandboxError, ScoringError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
OUTAGE_SECONDS = 600.0
"""Seconds for which a judge that is down, or another service that scoring asks, is waited for."""
_SHORTEST, _LONGEST = 1.0, 15.0
"""Seconds between two tries meanwhile."""
_SHORT_OUTAGE_SECONDS = 60.0
"""Seconds of it where a status of 500 may as well say that the request is bad."""
_FAILED_SECONDS = 60.0
"""Seconds that the scoring of an episode gets that has failed already."""
_CLEANUP_SECONDS = 10.0
"""Seconds that a rubric's clean-up gets after an episode that was broken off."""

_call_individual: Any = cast(Any, Rubric)._call_individual_reward_func
_call_group: Any = cast(Any, Rubric)._call_group_reward_func
_is_group_function: Any = cast(Any, Rubric)._is_group_func
_judge: Any = JudgeRubric.judge
_signatures: WeakKeyDictionary[Any, inspect.Signature] = WeakKeyDictionary()
_for_groups: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_ways: WeakKeyDictionary[Any, tuple[Any, bool, bool]] = WeakKeyDictionary()
"""Of rubrics: what they were made of when it was looked at, whether they score groups, and singly."""


def observe_rubrics() -> None:
    """Has verifiers' rubrics note what their functions raise, and ask judges what they are to be asked."""

    async def individual(self: Any, func: Any, state: Any) -> float:
        return await _call_individual(self, _note_failures(func, None), state)

    async def group(self: Any, func: Any, states: Any) -> list[float]:
        return await _call_group(self, _note_failures(func, len(states)), states)

    def is_group(self: Any, func: Any) -> bool:
        return _worked_out_once(_for_groups, func, lambda: _is_group_function(self, func))

    @wraps(_judge)
    async def judge(self: Any, prompt: Any, completion: Any, answer: Any, state: Any = None) -> str:
        return await _judge(self, _message_dictionaries(prompt), completion, answer, state)

    rubric_class, judge_class = cast(Any, Rubric), cast(Any, JudgeRubric)
    rubric_class._call_individual_reward_func, rubric_class._call_group_reward_func = individual, group
    rubric_class._is_group_func = is_group
    judge_class.judge = judge


async def score_rollouts(env: Any, states: list[vf.State], *, alone: bool) -> None:
    """Scores rollouts of one task as verifiers' runner does, and waits for services that are down.

    Args:
        env: The environment that played them.
        states: Their states, which are scored in place.
        alone: Whether they are scored each by itself.

    Raises:
        ScoringError: A reward function failed, or gave what is no reward.
        EnvironmentInfraError: What scoring needs has been down for too long.
        SandboxError: A session was lost to it.
        EpisodeFailed: Scoring left an error in a state, as verifiers has it.
    """
    rubric: Any = env.rubric
    began = time.time()
    for state in states:
        state["timing"].scoring.start = began
    if alone:
        for state in states:
            if not env.score_rollouts:
                await rubric.dummy_score_rollout(state)
            elif scores_singly(env):
                await _score_or_raise(lambda state=state: rubric.score_rollout(state))
            else:  # which asks what `score_rollout` does, and takes rubrics with no function, too
                await _score_or_raise(lambda state=state: rubric.score_group([state]))
    elif env.score_rollouts:
        await _score_or_raise(lambda: rubric.score_group(states))
    else:
        await rubric.dummy_score_group(states)
    ended = max(began, time.time())  # the clock may have been set back
    for state in states:
        state["timing"].scoring.end = ended


def scores_groups(env: Any) -> bool:
    """Whether an environment's rollouts of one task must be scored together."""
    return _way(env)[0]


def scores_singly(env: Any) -> bool:
    """Whether some rubric of an environment has its own `score_rollout`, which is then to be asked."""
    return _way(env)[1]


def _way(env: Any) -> tuple[bool, bool]:
    """Whether an environment scores groups, and singly: looked at again when its rubric has other parts."""
    rubric: Any = env.rubric
    parts = [(id(part), len(getattr(part, "funcs", ()))) for part in _iterate_rubrics(rubric)]
    known = _ways.get(rubric)
    if known is not None and known[0] == parts:
        return known[1:]
    own = _overrides_method(rubric, "score_rollout")
    groups = bool(env.requires_group_rollouts) or (_overrides_method(rubric, "score_group") and not own)
    _ways[rubric] = (parts, groups, own and not groups)
    return _ways[rubric][1:]


async def score_failed(env: Any, state: vf.State) -> None:
    """Scores a rollout that its environment has ended with an error, as verifiers' runner does.

    For what its rubric does on the side: nothing comes of the score. Never raises.
    """
    try:
        async with asyncio.timeout(_FAILED_SECONDS):
            score_it = env.rubric.score_rollout if scores_singly(env) else _find_rubric_group(env.rubric)
            await score_it(state)
    except Exception as error:  # noqa: BLE001 - the failure on record is the episode's
        _log.info("a failed episode could not be scored: %r", error)


def _find_rubric_group(rubric: Any) -> Callable[[vf.State], Awaitable[None]]:
    return lambda state: rubric.score_group([state])


async def clean_up_rubric(env: Any, state: vf.State) -> None:
    """Runs the clean-up of an environment's rubric after an episode that came to no score. Never raises."""
    try:
        async with asyncio.timeout(_CLEANUP_SECONDS):
            await env.rubric.cleanup(state)
    except Exception as error:  # noqa: BLE001 - the failure on record is the episode's
        _log.warning("the rubric of a failed episode could not clean up: %r", error)


def check_scored(state: vf.State, trace: tracing.EpisodeTrace) -> None:
    """Sees that scoring came to a score.

    Raises:
        ScoringError: It did not.
        EnvironmentInfraError: What it needs is down.
        EpisodeFailed: It left an error in the state.
    """
    for name, error in trace.scoring_errors:
        if isinstance(error, (vf.InfraError, EnvironmentInfraError)):
            raise EpisodeFailed(str(error)) from error
        raise ScoringError(f"reward function {name} raised {type(error).__name__}: {error}") from error
    left: Any = state.get("error")
    if left is not None:
        if isinstance(left, BaseException):
            raise EpisodeFailed(str(left)) from left
        raise ScoringError(f"scoring left an error: {left}")
    reward: Any = state.get("reward")
    try:
        if math.isfinite(float(reward)):
            return
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ScoringError(f"the rubric gave {reward!r}, which is no reward")


async def _score_or_raise(score_it: Callable[[], Awaitable[None]]) -> None:
    """Scores; what a rubric's own code raises while its service is down has it scored again later."""
    try:
        await _retry_during_outage(score_it)
    except (vf.Error, SandboxError, ScoringError, EnvironmentInfraError):
        raise
    except Exception as error:
        where = tracing.scored_traces.get()
        if any(trace.scoring_errors for trace in where):
            return  # which says more: verifiers' own code has only stumbled over what a function gave
        raise ScoringError(f"the rubric raised {type(error).__name__}: {error}") from error


async def _retry_during_outage(work: Callable[[], Awaitable[_T]]) -> _T:
    """Does work again for as long as it fails of a service that is down.

    Raises:
        EnvironmentInfraError: That takes too long.
    """
    began, pause = time.monotonic(), _SHORTEST
    while True:
        try:
            return await work()
        except Exception as error:
            kind = classify_outage(error)
            if kind is None or any(
                trace.state and trace.state.get("error") for trace in tracing.scored_traces.get()
            ):
                raise
            limit = OUTAGE_SECONDS if kind == "down" else _SHORT_OUTAGE_SECONDS
            if time.monotonic() - began + pause > limit:
                raise EnvironmentInfraError(
                    f"what scoring asks has been down for {limit:.0f} s: {error}"
                ) from error
            _log.warning("scoring waits for what it asks: %s", error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST)


def _note_failures(function: Any, rollouts: int | None) -> Any:
    """A reward function that waits out what is down, and whose failure is noted before it becomes a 0.0."""

    @wraps(function)
    async def reward(*args: Any, **kwargs: Any) -> Any:
        async def once() -> Any:
            try:
                value = function(*args, **kwargs)
                return await value if inspect.isawaitable(value) else value
            except (SystemExit, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                    raise
                raise EnvironmentExit.of(error) from error

        try:
            value = await _retry_during_outage(once)
            scores: list[Any] = [value] if rollouts is None else list(value)
            if rollouts is not None and len(scores) < rollouts:
                raise ValueError(f"it gave {len(scores)} scores for {rollouts} rollouts")
            for one in scores:
                if not math.isfinite(float(one)):
                    raise ValueError(f"it gave {one}, which is no reward")
            return value
        except Exception as error:
            name = str(getattr(function, "__name__", function))
            for trace in tracing.scored_traces.get():
                trace.scoring_errors.append((name, error))
            raise

    signed = cast(Any, reward)
    signed.__name__ = str(getattr(function, "__name__", type(function).__name__))
    signed.__signature__ = _cached_signature(function)
    return reward


def _cached_signature(function: Any) -> inspect.Signature:
    """A function's signature, worked out once: that takes 30 µs."""
    return _worked_out_once(_signatures, function, lambda: inspect.signature(function))


def _worked_out_once(known: WeakKeyDictionary[Any, _T], function: Any, work_out: Callable[[], _T]) -> _T:
    try:
        if function not in known:
            known[function] = work_out()
        return known[function]
    except TypeError:  # it cannot be a key
        return work_out()


def _iterate_rubrics(rubric: Any) -> Iterator[Any]:
    yield rubric
    for part in getattr(rubric, "rubrics", []):
        yield from _iterate_rubrics(part)


def _overrides_method(rubric: Any, method: str) -> bool:
    """Whether some rubric in this one has a way to score of its own, and not only functions."""
    usual = [getattr(kind, method) for kind in (Rubric, vf.RubricGroup, EnvGroupRubric)]
    own = (
        getattr(getattr(part, method), "__func__", getattr(part, method)) for part in _iterate_rubrics(rubric)
    )
    return any(function not in usual for function in own)


def _message_dictionaries(prompt: Any) -> Any:
    if not isinstance(prompt, list):
        return prompt
    messages = cast(list[Any], prompt)
    return [m.model_dump(exclude_none=True) if isinstance(m, BaseModel) else m for m in messages]
