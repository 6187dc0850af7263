"""Environments written against verifiers' classic API: `load_environment`, `MultiTurnEnv`, `Rubric`."""

import asyncio
import copy
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self, cast

import verifiers as vf

from workers.environments import tracing
from workers.environments.base import Actor, PolicyClient, Rollout, Rows
from workers.environments.classic import scoring, steps
from workers.environments.classic.few_shots import drop_arrow_arguments
from workers.environments.classic.overheads import avoid_token_threads, cache_signature
from workers.environments.classic.rescoring import NewScore, score_records
from workers.environments.library_output import log_library_output
from workers.environments.loading import explain_load_error, load_classic_environment
from workers.environments.sendable import replace_unsendable, replace_unsendable_message
from workers.environments.tool_errors import note_tool_errors, observe_calls
from workers.environments.tracing import EpisodeTrace, Turn
from workers.errors import EnvironmentLoadError, EpisodeFailed
from workers.failures import failure_kind
from workers.policy.classic_client import make_client
from workers.policy.endpoint import check_version
from workers.policy.oracle_client import OracleClient
from workers.records import EpisodeRecord, StepRecord
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, Split

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
        module: The environment's module. None: it is imported.

    Raises:
        EnvironmentLoadError: There is no such environment, or it does not load with these arguments.
    """

    api: Literal["classic", "v1"] = "classic"

    def __init__(
        self,
        settings: EnvironmentSettings,
        search_path: Path | None = None,
        policy: str | None = None,
        episode_timeout: float | None = None,
        module: ModuleType | None = None,
    ) -> None:
        scoring.observe_rubrics()
        self._env = load_classic_environment(
            settings, search_path, {"policy": policy, "episode_timeout": episode_timeout}, module
        )
        self._settings = settings
        self._members = list(_member_environments(self._env, settings.id))
        self.toolset = _find_toolset(self._members, settings.id)
        self.needs_groups = any(scoring.scores_groups(env) for env in self._members)
        self.seat_policies: dict[str, str] = {}
        self.has_tools = self.toolset is not None or any(
            bool(getattr(env, "tool_defs", None)) for env in self._members
        )
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
        with log_library_output():
            try:
                return self._rows()
            except EnvironmentLoadError:
                raise
            except Exception as error:  # a dataset that is made when it is asked for, by the user's own code
                _log.warning("the dataset of %s cannot be made", self._settings.id, exc_info=error)
                raise EnvironmentLoadError(explain_load_error(self._settings, error)) from error

    def _rows(self) -> Rows:
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
        env, row = _find_player(self._env, row)
        state = await self._roll_out(env, row, actor, trace, session)
        await self._score(env, [state], [trace])
        scoring.check_scored(state, trace)
        return steps.make_rollout(state, trace)

    async def play_group(
        self, row: dict[str, Any], actor: Actor, traces: list[EpisodeTrace], sessions: list[Session | None]
    ) -> list[Rollout | BaseException]:
        """See `RolloutEnvironment.play_group`. Those that fail before scoring are left out of it."""
        env, row = _find_player(self._env, row)
        states = await asyncio.gather(
            *(self._roll_out(env, row, actor, t, s) for t, s in zip(traces, sessions, strict=True)),
            return_exceptions=True,
        )
        played = [(s, t) for s, t in zip(states, traces, strict=True) if not isinstance(s, BaseException)]
        try:
            await self._score(env, [state for state, _ in played], [trace for _, trace in played])
            for state, trace in played:
                scoring.check_scored(state, trace)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure of each of them
            return [s if isinstance(s, BaseException) else error for s in states]
        return [
            s if isinstance(s, BaseException) else steps.make_rollout(s, t)
            for s, t in zip(states, traces, strict=True)
        ]

    async def score_records(
        self, row: dict[str, Any], records: list[EpisodeRecord]
    ) -> list[NewScore | Exception]:
        """Scores recorded episodes of one task again; see `score_records` of `rescoring`."""
        env, row = _find_player(self._env, row)
        return await score_records(env, row, records)

    def open_client(
        self, endpoint: PolicyEndpoint, others: Mapping[str, PolicyEndpoint] | None = None
    ) -> PolicyClient:
        """See `RolloutEnvironment.open_client`."""
        return OracleClient() if endpoint.kind == "oracle" else make_client(endpoint)

    def steps_so_far(self, trace: EpisodeTrace) -> tuple[list[StepRecord], str]:
        """See `RolloutEnvironment.steps_so_far`."""
        if trace.state is None:
            return [], "[]"
        return steps.make_steps(trace.state, trace), steps.tool_schemas(trace.state, trace)

    async def tear_down(self) -> None:
        """Runs what is to run when nobody needs the environment any more: `@vf.teardown`, of rubrics too."""
        for env in dict.fromkeys((self._env, *self._members)):
            await env._teardown()

    async def _roll_out(
        self, env: Any, row: dict[str, Any], actor: Actor, trace: EpisodeTrace, session: Session | None
    ) -> vf.State:
        trace.session = session
        trace.stage = "setup"
        sampling = {**env.sampling_args, **actor.sampling}
        if not {"max_tokens", "max_completion_tokens"} & sampling.keys():
            sampling["max_tokens"] = _MAX_TOKENS
        sampling["extra_body"] = {
            **(env.sampling_args.get("extra_body") or {}),
            **(actor.sampling.get("extra_body") or {}),
        }
        sampling.pop("n", None)
        token = tracing.current_trace.set(trace)
        try:
            state = await env.rollout(cast(Any, row), actor.client, actor.model, sampling)
            _check_rolled_out(env, state)
            return state
        except BaseException as error:
            if failure_kind(error) == "environment" and isinstance(error.__cause__, vf.Error):
                await self._score_failed(env, trace)
            if (
                trace.state is not None
            ):  # verifiers cleans up after an episode that it ends with an error, too
                await scoring.clean_up_rubric(env, trace.state)
            raise
        finally:
            tracing.current_trace.reset(token)

    async def _score_failed(self, env: Any, trace: EpisodeTrace) -> None:
        """As verifiers does, which scores what an environment ends with an error of verifiers' kinds."""
        if self.needs_groups or not env.score_rollouts:
            return
        token = tracing.scored_traces.set((trace,))
        try:
            await scoring.score_failed(env, trace.state)
        finally:
            tracing.scored_traces.reset(token)

    async def _score(self, env: Any, states: list[vf.State], traces: list[EpisodeTrace]) -> None:
        if not states:
            return
        token = tracing.scored_traces.set(tuple(traces))
        alone = not scoring.scores_groups(env)
        try:
            for trace in traces:
                trace.stage = "scoring"
            with traces[0].during("scoring"):
                scored = False
                try:
                    await scoring.score_rollouts(env, states, alone=alone)
                    scored = True
                finally:
                    for state in states if not scored else ():
                        await scoring.clean_up_rubric(env, state)
                for state in states:
                    await env.rubric.cleanup(state)
        finally:
            tracing.scored_traces.reset(token)
        for state, trace in zip(states, traces, strict=True):
            _check_session(trace)
            if scoring.scores_singly(env):  # the usual way gives every step its episode's reward
                trace.step_rewards = _read_step_rewards(state, trace.step_rewards)

    def _observe(self) -> None:
        """Wraps what an episode passes through; verifiers offers no hooks around these."""
        avoid_token_threads()
        for env in self._members:
            _observe_environment(env)


def _observe_environment(env: Any) -> None:
    """Wraps what an episode passes through in one environment."""
    set_up, respond, act = env.setup_state, env.env_response, env.get_model_response
    clean_up, prompts = env.cleanup, env.get_prompt_messages

    async def setup_state(state: vf.State, *args: Any, **kwargs: Any) -> Any:
        trace = _current_trace()
        trace.state = state
        if trace.session is not None:
            state["sandbox"] = trace.session
        with trace.during("setup"):
            ready = await set_up(state, *args, **kwargs)
            _check_session(trace)
        trace.stage = "tools"  # from here on, what is not the policy's is the environment's
        trace.state = ready if ready is not None else state
        return ready

    async def get_prompt_messages(state: vf.State, *args: Any, **kwargs: Any) -> Any:
        return replace_unsendable(await prompts(state, *args, **kwargs), _current_trace().sendable)

    async def get_model_response(state: vf.State, *args: Any, **kwargs: Any) -> Any:
        trace = _current_trace()
        before = trace.seconds.get("policy", 0.0)
        newest = trace.newest_version() if trace.newest_version is not None else None
        if newest is not None:  # while replicas change one by one, the turn before may have had a newer one
            trace.policy_version = max(newest, trace.policy_version or 0)
        tools = trace.offer(state.get("tool_defs"))
        with trace.during("policy"):
            response = await act(state, *args, **kwargs)
            check_version(trace)
        response.message = replace_unsendable_message(response.message)
        calls = trace.session.calls if trace.session else 0
        turn = Turn(trace.policy_version, trace.seconds["policy"] - before, 0.0, calls, calls, tools)
        index = len(state["trajectory"])
        trace.turns[index:] = [turn]
        return response

    async def env_response(messages: vf.Messages, state: vf.State, *args: Any, **kwargs: Any) -> Any:
        trace = _current_trace()
        before = trace.seconds.get("tools", 0.0)
        calls = len(trace.session.call_errors) if trace.session else 0
        with trace.during("tools"):
            answer = await respond(messages, state, *args, **kwargs)
            _check_session(trace)
        if trace.turns:
            turn = trace.turns[-1]
            turn.tools_seconds = trace.seconds["tools"] - before
            turn.last_call = trace.session.calls if trace.session else 0
            note_tool_errors(env, messages, state, trace, calls)
        return answer

    async def cleanup(state: vf.State, *args: Any, **kwargs: Any) -> None:
        trace = _current_trace()
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
        trace.step_rewards = _read_step_rewards(state, [])

    env.setup_state, env.env_response = setup_state, env_response
    env.get_prompt_messages = get_prompt_messages
    env.get_model_response, env.cleanup = get_model_response, cleanup
    observe_calls(env, _current_trace)
    for functions in (env._stop_conditions, env._cleanup_handlers):
        functions[:] = [cache_signature(function) for function in functions]


def _current_trace() -> EpisodeTrace:
    trace = tracing.current_trace.get()
    if trace is None:
        raise EnvironmentLoadError("this environment is played by Kumite's workers only")
    return trace


def _check_session(trace: EpisodeTrace) -> None:
    """Raises what the session was lost to: verifiers' own loops make text of what a tool raises."""
    if trace.session is not None and trace.session.failure is not None:
        raise trace.session.failure


def _check_rolled_out(env: Any, state: vf.State) -> None:
    error = state.get("error")
    # The turn that verifiers cancels at its limit leaves an error, too, which says nothing.
    if state.get("timed_out") and (error is None or isinstance(error, asyncio.CancelledError)):
        limit = env.timeout_seconds
        raise EpisodeFailed(f"the environment's own limit, its timeout_seconds of {limit}, was reached")
    if error is not None:
        raise EpisodeFailed(str(error)) from (error if isinstance(error, BaseException) else None)


def _member_environments(env: Any, name: str) -> Iterator[Any]:
    """The environments that play: those of a group, each with its own rows, or the one."""
    if isinstance(env, vf.EnvGroup):
        for member in env.envs:
            yield from _member_environments(member, name)
    elif isinstance(env, vf.MultiTurnEnv):
        yield env
    else:
        raise EnvironmentLoadError(
            f"environment.id: {name} has a {type(env).__name__} in its EnvGroup; only MultiTurnEnvs and "
            "groups of them can be played"
        )


def _find_player(env: Any, row: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Who plays a row, and the row as that one knows it."""
    while isinstance(env, vf.EnvGroup):
        name, routed, _ = cast(Any, env)._route_child_input(row)
        env, row = env.get_env_for_name(name), cast(dict[str, Any], routed)
    return env, drop_arrow_arguments(row)


def _find_toolset(members: list[Any], name: str) -> ToolsetSpec | None:
    """What sandboxes must have loaded; an attribute of that name that is something else is the user's own."""
    found = [env.toolset for env in members if isinstance(getattr(env, "toolset", None), ToolsetSpec)]
    if any(toolset != found[0] for toolset in found):
        raise EnvironmentLoadError(
            f"environment.id: {name} is an EnvGroup of environments with toolsets of their own, and the "
            "episodes of a worker share one; play them one after the other"
        )
    return found[0] if found else None


def _read_step_rewards(state: vf.State, before: list[float | None]) -> list[float | None]:
    """The rewards of an episode's steps, as far as the environment has given any."""
    trajectory: list[Any] = state.get("trajectory") or []
    now = [steps.to_number(step.get("reward")) for step in trajectory]
    return now if any(reward is not None for reward in now) else before
