"""Environments written against verifiers' classic API: `load_environment`, `MultiTurnEnv`, `Rubric`."""

import asyncio
import copy
import inspect
import logging
import math
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Self, cast

import verifiers as vf

from workers.environments import steps, tracing
from workers.environments.base import Actor, Rollout, Rows
from workers.environments.loading import load
from workers.environments.overheads import spare_threads, with_signature
from workers.environments.tracing import EpisodeTrace, Turn
from workers.errors import EnvironmentLoadError, EpisodeFailed, SandboxError, ScoringError, StaleEpisode
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import EnvironmentSettings, Split

_log = logging.getLogger(__name__)
_MAX_TOKENS = 512
"""Most tokens sampled in one turn where neither the run nor the environment says."""


class ClassicEnvironment:
    """A `vf.Environment` made observable: it is played as it is, and what it does is noted.

    Must be made on the main thread: verifiers installs signal handlers, which are put back here.

    Args:
        settings: Which environment, with which arguments.
        search_path: Folder to look in for a user's own environment module.
        policy: Name of the model that plays.
        episode_timeout: Seconds that an episode may take; None where there is no limit, or none is known.

    Raises:
        EnvironmentLoadError: There is no such environment, or it does not load with these arguments.
    """

    def __init__(
        self,
        settings: EnvironmentSettings,
        search_path: Path | None = None,
        policy: str | None = None,
        episode_timeout: float | None = None,
    ) -> None:
        self._env = load(settings, search_path, {"policy": policy, "episode_timeout": episode_timeout})
        self._settings = settings
        self.toolset = cast("ToolsetSpec | None", getattr(self._env, "toolset", None))
        self.needs_groups = bool(self._env.requires_group_rollouts)
        self.has_tools = self.toolset is not None or bool(getattr(self._env, "tool_defs", None))
        self._observe()

    @property
    def sampling_args(self) -> dict[str, Any]:
        """The environment's own sampling arguments, which an actor's win over."""
        return dict(self._env.sampling_args)

    def rows(self) -> Rows:
        """The tasks of the dataset that `environment.split` names.

        Raises:
            EnvironmentLoadError: It has no such dataset.
        """
        if self._settings.split == "eval":
            return cast(Rows, self._env.get_eval_dataset())
        if self._env.build_dataset() is None:
            raise EnvironmentLoadError(
                f"environment.split: got 'train', and {self._settings.id} has no training dataset "
                "(verifiers' `dataset`), only one to evaluate on; give 'eval'"
            )
        return cast(Rows, self._env.get_dataset())

    def of_split(self, split: Split) -> Self:
        """The same environment, with the tasks of this split."""
        other = copy.copy(self)
        other._settings = self._settings.model_copy(update={"split": split})
        return other

    async def play(
        self, row: dict[str, Any], actor: Actor, trace: EpisodeTrace, session: Session | None
    ) -> Rollout:
        """See `RolloutEnvironment.play`."""
        state = await self._roll_out(row, actor, trace, session)
        await self._score([state], [trace])
        return steps.rollout(state, trace)

    async def play_group(
        self, row: dict[str, Any], actor: Actor, traces: list[EpisodeTrace], sessions: list[Session | None]
    ) -> list[Rollout | BaseException]:
        """See `RolloutEnvironment.play_group`. Those that fail before scoring are left out of it."""
        states = await asyncio.gather(
            *(self._roll_out(row, actor, t, s) for t, s in zip(traces, sessions, strict=True)),
            return_exceptions=True,
        )
        played = [(s, t) for s, t in zip(states, traces, strict=True) if not isinstance(s, BaseException)]
        try:
            await self._score([state for state, _ in played], [trace for _, trace in played])
        except (ScoringError, SandboxError) as error:
            return [s if isinstance(s, BaseException) else error for s in states]
        return [
            s if isinstance(s, BaseException) else steps.rollout(s, t)
            for s, t in zip(states, traces, strict=True)
        ]

    async def _roll_out(
        self, row: dict[str, Any], actor: Actor, trace: EpisodeTrace, session: Session | None
    ) -> vf.State:
        trace.session = session
        trace.stage = "setup"
        sampling = {**self._env.sampling_args, **actor.sampling}
        if not {"max_tokens", "max_completion_tokens"} & sampling.keys():
            sampling["max_tokens"] = _MAX_TOKENS
        sampling["extra_body"] = {
            **self._env.sampling_args.get("extra_body", {}),
            **actor.sampling.get("extra_body", {}),
        }
        sampling.pop("n", None)
        token = tracing.current.set(trace)
        try:
            state = await self._env.rollout(cast(Any, row), actor.client, actor.model, sampling)
        finally:
            tracing.current.reset(token)
        error = state.get("error")
        # The turn that verifiers cancels at its limit leaves an error, too, which says nothing.
        if state.get("timed_out") and (error is None or isinstance(error, asyncio.CancelledError)):
            limit = self._env.timeout_seconds
            raise EpisodeFailed(f"the environment's own limit, its timeout_seconds of {limit}, was reached")
        if error is not None:
            raise EpisodeFailed(str(error)) from error
        return state

    async def _score(self, states: list[vf.State], traces: list[EpisodeTrace]) -> None:
        """Scores rollouts as one group: verifiers' single path asserts on rubrics it can't score singly."""
        if not states:
            return
        token = tracing.scored.set(tuple(traces))
        try:
            for trace in traces:
                trace.stage = "scoring"
            with traces[0].during("scoring"):
                if self._env.score_rollouts:
                    await self._env.rubric.score_group(states)
                for state in states:
                    await self._env.rubric.cleanup(state)
        finally:
            tracing.scored.reset(token)
        for trace in traces:
            _check_session(trace)
            for name, error in trace.scoring_errors:
                raise ScoringError(
                    f"reward function {name} raised {type(error).__name__}: {error}"
                ) from error

    def _observe(self) -> None:
        """Wraps what an episode passes through; verifiers offers no hooks around these."""
        spare_threads()
        env: Any = self._env
        set_up, respond, act = env.setup_state, env.env_response, env.get_model_response
        clean_up = env.cleanup

        async def setup_state(state: vf.State, *args: Any, **kwargs: Any) -> Any:
            trace = _trace()
            trace.state = state
            if trace.session is not None:
                state["sandbox"] = trace.session
            with trace.during("setup"):
                ready = await set_up(state, *args, **kwargs)
                _check_session(trace)
            trace.stage = "tools"  # from here on, what is not the policy's is the environment's
            trace.state = ready if ready is not None else state
            return ready

        async def get_model_response(state: vf.State, *args: Any, **kwargs: Any) -> Any:
            trace = _trace()
            before = trace.seconds.get("policy", 0.0)
            newest = trace.newest_version() if trace.newest_version is not None else None
            if (
                newest is not None
            ):  # while replicas change one by one, the turn before may have had a newer one
                trace.policy_version = max(newest, trace.policy_version or 0)
            with trace.during("policy"):
                response = await act(state, *args, **kwargs)
                _check_version(trace)
            calls = trace.session.calls if trace.session else 0
            turn = Turn(trace.policy_version, trace.seconds["policy"] - before, 0.0, calls, calls)
            index = len(state["trajectory"])
            trace.turns[index:] = [turn]
            return response

        async def env_response(messages: vf.Messages, state: vf.State, *args: Any, **kwargs: Any) -> Any:
            trace = _trace()
            before = trace.seconds.get("tools", 0.0)
            with trace.during("tools"):
                answer = await respond(messages, state, *args, **kwargs)
                _check_session(trace)
            if trace.turns:
                turn = trace.turns[-1]
                turn.tools_seconds = trace.seconds["tools"] - before
                turn.last_call = trace.session.calls if trace.session else 0
            return answer

        async def cleanup(state: vf.State, *args: Any, **kwargs: Any) -> None:
            trace = _trace()
            if state.get("error") is not None or trace.error is not None:
                # The stage stays the one that failed, and so does the error, whatever comes of this.
                state["error"] = state.get("error") or trace.error
                try:
                    await clean_up(state, *args, **kwargs)
                except Exception as error:  # noqa: BLE001 - see above
                    _log.warning("a failed episode could not be cleaned up after: %r", error)
                return
            with trace.during("scoring"):
                await clean_up(state, *args, **kwargs)
                _check_session(trace)
            trace.step_rewards = [step["reward"] for step in state["trajectory"]]

        env.setup_state, env.env_response = setup_state, env_response
        env.get_model_response, env.cleanup = get_model_response, cleanup
        for functions in (env._stop_conditions, env._cleanup_handlers):
            functions[:] = [with_signature(function) for function in functions]
        for rubric in _rubrics(env.rubric):
            rubric.funcs[:] = [
                _noting_errors(function, rubric._is_group_func(function)) for function in rubric.funcs
            ]


def _trace() -> EpisodeTrace:
    trace = tracing.current.get()
    if trace is None:
        raise EnvironmentLoadError("this environment is played by Kumite's workers only")
    return trace


def _check_version(trace: EpisodeTrace) -> None:
    """Ends an episode that is to finish on the version it began with, and cannot: its weights have gone."""
    began = trace.turns[0].policy_version if trace.turns else trace.policy_version
    if trace.newest_version is None and trace.policy_version != began:
        raise StaleEpisode(
            f"it began on version {began}, and version {trace.policy_version} has taken its place; with "
            "policy.in_flight `move`, it would go on"
        )


def _check_session(trace: EpisodeTrace) -> None:
    """Raises what the session was lost to: verifiers' own loops make text of what a tool raises."""
    if trace.session is not None and trace.session.failure is not None:
        raise trace.session.failure


def _rubrics(rubric: Any) -> Iterator[Any]:
    for part in getattr(rubric, "rubrics", []):
        yield from _rubrics(part)
    yield rubric


def _noting_errors(function: Any, scores_groups: bool) -> Any:
    """A reward function whose failure is noted before verifiers turns it into a 0.0."""

    @wraps(function)
    async def reward(*args: Any, **kwargs: Any) -> Any:
        try:
            value = function(*args, **kwargs)
            value = await value if inspect.isawaitable(value) else value
            for one in value if scores_groups else [value]:
                if not math.isfinite(float(one)):
                    raise ValueError(f"it gave {one}, which is no reward")
            return value
        except Exception as error:
            name = str(getattr(function, "__name__", function))
            for trace in tracing.scored.get():
                trace.scoring_errors.append((name, error))
            raise

    reward.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return reward
