"""Which tool calls of a turn were answered with an error: as the environment says, or as can be seen."""

from typing import Any, cast

import verifiers as vf

from workers.environments.tracing import EpisodeTrace

EXTRA = "tool_errors"
"""Key of a trajectory step's `extras` under which an environment says it itself: a truth value per call."""


def declare_tool_errors(state: Any, errors: list[bool]) -> None:
    """Says, as an environment, which tool calls of the last action failed: a truth value per call."""
    state["trajectory"][-1].setdefault("extras", {})[EXTRA] = errors


def note_tool_errors(env: Any, messages: Any, state: Any, trace: EpisodeTrace, calls_before: int) -> None:
    """Notes on the present turn which of its tool calls failed, where that is known.

    An environment that fills `extras["tool_errors"]` is believed. Of verifiers' own tool loop it is known
    which calls raised. In any other environment the tools of the session say it, if each call of the action
    was one call of the session.

    Args:
        env: The environment.
        messages: What it answered to; the last one is the action.
        state: verifiers' state.
        trace: The episode's notes.
        calls_before: How many calls the session had had before.
    """
    calls: list[Any] = (getattr(messages[-1], "tool_calls", None) or []) if messages else []
    ids = [str(call.id) for call in calls]
    if ids and trace.turns:
        trace.turns[-1].tool_errors = _declared_errors(state, len(ids)) or _observed_errors(
            env, ids, trace, calls_before
        )
    trace.calls_raised.clear()


def observe_calls(env: Any, current: Any) -> None:
    """Notes of each call of verifiers' own tool loop whether it raised.

    Args:
        env: The environment; one without `call_tool` stays as it is.
        current: Gives the episode's notes.
    """
    if not isinstance(env, vf.ToolEnv):
        return
    call_tool = cast(Any, env).call_tool

    async def noted(tool_name: str, tool_args: Any, tool_call_id: str, *args: Any, **kwargs: Any) -> Any:
        raised = current().calls_raised
        raised[str(tool_call_id)] = True
        answer = await call_tool(tool_name, tool_args, tool_call_id, *args, **kwargs)
        raised[str(tool_call_id)] = False
        return answer

    cast(Any, env).call_tool = noted


def _declared_errors(state: Any, calls: int) -> list[bool] | None:
    trajectory: list[Any] = state.get("trajectory") or []
    extras = cast(dict[str, Any], trajectory[-1].get("extras") or {}) if trajectory else {}
    said: Any = extras.get(EXTRA)
    if not isinstance(said, list) or len(cast(list[Any], said)) != calls:
        return None
    return [bool(each) for each in cast(list[Any], said)]


def _observed_errors(env: Any, ids: list[str], trace: EpisodeTrace, calls_before: int) -> list[bool] | None:
    raised = dict(trace.calls_raised)
    in_session = trace.session.call_errors[calls_before:] if trace.session is not None else []
    if len(in_session) == len(ids):
        return [failed or raised.get(each, False) for failed, each in zip(in_session, ids, strict=True)]
    if in_session:
        return None  # it cannot be told which call of the action made which of the session's
    if _has_verifiers_tool_loop(env):
        return [raised.get(each, True) for each in ids]  # what was not called could not be read
    if ids and all(each in raised for each in ids):
        return [raised[each] for each in ids]
    return None


def _has_verifiers_tool_loop(env: Any) -> bool:
    own = cast(Any, type(env))
    return own.env_response in (vf.ToolEnv.env_response, vf.StatefulToolEnv.env_response)
