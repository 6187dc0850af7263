"""Recorded episodes scored again, by what their environment's rubric sees of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import verifiers as vf
from verifiers.legacy.utils.message_utils import normalize_messages

from workers.environments import tracing
from workers.environments.classic import scoring
from workers.environments.classic.steps import finite_metrics
from workers.environments.tracing import EpisodeTrace
from workers.policy.oracle_client import OracleClient
from workers.records import EpisodeRecord, Message


@dataclass(frozen=True)
class NewScore:
    """What a rubric gave an episode."""

    reward: float
    metrics: dict[str, float | None]
    step_rewards: list[float | None]
    """Of its steps, where the rubric gives them rewards of their own."""


async def score_records(
    env: Any, row: dict[str, Any], records: Sequence[EpisodeRecord]
) -> list[NewScore | Exception]:
    """Scores recorded episodes of one task again: each by itself, or together where the rubric scores groups.

    The rubric finds the task's prompt, answer and `info`, the recorded conversation as `completion`, and the
    steps as `trajectory`. What the environment had noted in its state beside these is not there.

    Args:
        env: The environment of verifiers' that knows the row.
        row: The task.
        records: Its episodes, played to the end.

    Returns:
        A score of each, or why there is none.
    """
    states = [await _rebuild_state(env, row, record) for record in records]
    traces = [EpisodeTrace() for _ in records]
    alone = not scoring.scores_groups(env)
    batches = [[place] for place in range(len(records))] if alone else [list(range(len(records)))]
    found: list[NewScore | Exception] = []
    for batch in batches:
        token = tracing.scored_traces.set(tuple(traces[place] for place in batch))
        try:
            await scoring.score_rollouts(env, [states[place] for place in batch], alone=alone)
            for place in batch:
                scoring.check_scored(states[place], traces[place])
                found.append(_read_score(env, states[place]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is why these have no score
            del found[batch[0] :]
            found += [error] * len(batch)
        finally:
            tracing.scored_traces.reset(token)
            for place in batch:
                await scoring.clean_up_rubric(env, states[place])
    return found


async def _rebuild_state(env: Any, row: dict[str, Any], record: EpisodeRecord) -> vf.State:
    state: Any = await env.init_state(row, OracleClient(), record.model, dict(env.sampling_args))
    first = record.steps[0].prompt_messages if record.steps else []
    given = len(first) if record.messages[: len(first)] == first else 0
    state["prompt"] = _to_messages(record.messages[:given]) or state.get("prompt")
    state["completion"] = _to_messages(record.messages[given:])
    state["trajectory"] = [
        {
            "prompt": _to_messages(step.prompt_messages),
            "completion": _to_messages([step.action]),
            "response": None,
            "tokens": None,
            "reward": None,
            "advantage": None,
            "is_truncated": step.finish_reason == "length",
            "trajectory_id": state["trajectory_id"],
            "extras": {},
        }
        for step in record.steps
    ]
    state["is_completed"], state["is_truncated"] = True, record.is_truncated
    state["stop_condition"] = record.stop_reason
    return state


def _to_messages(messages: Sequence[Message]) -> Any:
    raw: list[Any] = []
    for message in messages:
        made: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.reasoning_content:
            made["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            made["tool_calls"] = [
                {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            made["tool_call_id"] = message.tool_call_id
        raw.append(made)
    return normalize_messages(raw)


def _read_score(env: Any, state: Any) -> NewScore:
    steps: list[Any] = state.get("trajectory") or []
    rewards = [step.get("reward") for step in steps] if scoring.scores_singly(env) else []
    return NewScore(float(state["reward"]), finite_metrics(state.get("metrics")), rewards)
