"""Episodes made up for the tests of the data layer."""

import zlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from workers.records import (
    EpisodeError,
    EpisodeRecord,
    EpisodeResult,
    FunctionCall,
    Message,
    StepRecord,
    TaskLabels,
    Timings,
    ToolCall,
    Usage,
)


def full_step(index: int, done: bool) -> StepRecord:
    """A step in which nothing is null."""
    call = ToolCall(id="c1", function=FunctionCall(name="send_money", arguments='{"amount": 1}'))
    return StepRecord(
        step_index=index,
        prompt_messages=[Message(role="user", content="Pay the bill – ¡ya! 💶")],
        action=Message(role="assistant", content="On it", reasoning_content="hm", tool_calls=[call]),
        observations=[Message(role="tool", content="paid", tool_call_id="c1")],
        state_patch=f'[{{"op": "replace", "path": "/paid", "value": {index + 1}}}]',
        reward=0.5,
        done=done,
        prompt_token_ids=[1, 2, 151_000],
        completion_token_ids=[7],
        completion_logprobs=[-0.25],
        policy_version=3,
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=3, completion_tokens=1),
        policy_seconds=0.5,
        tools_seconds=0.25,
        asked='{"max_tokens": 64}',
    )


def bare_step(index: int, done: bool) -> StepRecord:
    """A step in which everything that may be null or empty is."""
    return StepRecord(
        step_index=index,
        prompt_messages=[],
        action=Message(role="assistant", tool_calls=[]),
        observations=[],
        done=done,
        prompt_token_ids=[],
    )


def episode(number: int = 0, **changes: Any) -> EpisodeRecord:
    """A finished benign AgentDojo episode of two steps in which whatever can apply does."""
    fields: dict[str, Any] = dict(
        episode_id=f"{number:016x}",
        task_id=f"banking/user_task_{number}",
        group_id=f"g{number}",
        sample_index=0,
        run_id="run-1",
        environment="agentdojo",
        suite="banking",
        user_task=f"user_task_{number}",
        status="finished",
        reward=1.0,
        metrics='{"utility": 1.0, "attack_success": null}',
        stop_reason="no_tools_called",
        messages=[Message(role="user", content="Pay the bill")],
        initial_state_id="base",
        initial_state_patch='[{"op": "add", "path": "/paid", "value": 0}]',
        steps=[full_step(0, False), full_step(1, True)],
        model="m",
        policy_version=3,
        usage=Usage(prompt_tokens=10, completion_tokens=2),
        timings=Timings(queue=1.0, setup=2.0, policy=3.0, tools=4.0, scoring=5.0, total=15.0),
        started_at=1.5,
        worker_id="w1",
        node_id="n1",
        sandbox_id="s1",
    )
    return EpisodeRecord(**(fields | changes))


def failed_episode(number: int = 0, **changes: Any) -> EpisodeRecord:
    """An episode that failed before its first step, with nulls wherever they can be."""
    fields: dict[str, Any] = dict(
        status="failed",
        reward=None,
        metrics="{}",
        stop_reason=None,
        error=EpisodeError(stage="setup", kind="task", type="SessionSetupError", message="no such task"),
        messages=[],
        initial_state_id=None,
        initial_state_patch=None,
        steps=[],
        policy_version=None,
        sandbox_id=None,
    )
    return episode(number, **(fields | changes))


def result(record: EpisodeRecord, states: dict[str, str] | None = None) -> EpisodeResult:
    """What a worker gives back for this record."""
    return EpisodeResult(
        episode_id=record.episode_id,
        status=record.status,
        reward=record.reward,
        metrics={},
        labels=TaskLabels(),
        usage=record.usage,
        timings=record.timings,
        record=record.model_dump_json(),
        states=states or {},
    )


def line(record: str) -> bytes:
    """A journal line, by the documented format."""
    body = record.encode()
    return f"{zlib.crc32(body):08x} ".encode() + body + b"\n"


def write_segment(segment: Path, records: list[EpisodeRecord]) -> Path:
    segment.parent.mkdir(parents=True, exist_ok=True)
    segment.write_bytes(b"".join(line(record.model_dump_json()) for record in records))
    return segment


_text = st.text(max_size=20)
_int = st.integers(-(2**63), 2**63 - 1)
_float = st.floats(allow_nan=False, allow_infinity=False)
_messages = st.lists(
    st.builds(
        Message,
        role=_text,
        content=st.none() | _text,
        reasoning_content=st.none() | _text,
        tool_calls=st.none()
        | st.lists(
            st.builds(ToolCall, id=_text, function=st.builds(FunctionCall, name=_text, arguments=_text)),
            max_size=2,
        ),
        tool_call_id=st.none() | _text,
    ),
    max_size=3,
)
_usage = st.builds(Usage, prompt_tokens=_int, completion_tokens=_int)
_tokens = st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=5)
_steps = st.builds(
    StepRecord,
    step_index=_int,
    prompt_messages=_messages,
    action=_messages.map(lambda messages: messages[0] if messages else Message(role="assistant")),
    observations=_messages,
    state_patch=st.none() | _text,
    reward=st.none() | _float,
    done=st.booleans(),
    prompt_token_ids=_tokens,
    completion_token_ids=_tokens,
    completion_logprobs=st.none()
    | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=5),
    policy_version=st.none() | _int,
    finish_reason=st.none() | _text,
    usage=st.none() | _usage,
    policy_seconds=_float,
    tools_seconds=_float,
    policy=st.none() | _text,
    trainable=st.none() | st.booleans(),
)
_timings = st.builds(Timings, **dict.fromkeys(Timings.model_fields, _float))

episodes = st.builds(
    EpisodeRecord,
    **dict.fromkeys(("task_id", "group_id", "run_id", "environment", "model", "worker_id", "node_id"), _text),
    **dict.fromkeys(("metrics", "tool_schemas"), _text),
    **dict.fromkeys(
        ("suite", "user_task", "injection_task", "attack", "stop_reason", "initial_state_id"),
        st.none() | _text,
    ),
    episode_id=st.uuids().map(str),
    sample_index=_int,
    split=st.sampled_from([None, "train", "eval"]),
    sampling=st.none() | _text,
    status=st.sampled_from(["finished", "failed"]),
    reward=st.none() | _float,
    is_truncated=st.booleans(),
    error=st.none() | st.builds(EpisodeError, stage=st.just("tools"), type=_text, message=_text),
    messages=_messages,
    initial_state_patch=st.none() | _text,
    steps=st.lists(_steps, max_size=3),
    policy_version=st.none() | _int,
    usage=_usage,
    timings=_timings,
    attempt=_int,
    started_at=_float,
    agents=st.none() | _text,
    sandbox_id=st.none() | _text,
)
"""Any episode that a worker can write."""
