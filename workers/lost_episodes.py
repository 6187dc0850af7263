"""Records of episodes of which nobody can tell: their worker, or the process that played them, is gone."""

import json
import time
from typing import Any, cast

from pydantic_core import PydanticSerializationError

from workers.environments.messages import to_records
from workers.environments.setup_labels import setup_labels
from workers.record_digest import digest_of
from workers.records import (
    EpisodeError,
    EpisodeRecord,
    EpisodeResult,
    EpisodeSpec,
    Message,
    Timings,
    Usage,
)
from workers.settings import EnvironmentSettings


def make_lost_result(
    spec: EpisodeSpec,
    error: EpisodeError,
    *,
    run_id: str,
    environment: EnvironmentSettings,
    model: str,
    worker_id: str = "",
    node_id: str = "",
) -> EpisodeResult:
    """Makes the result of an episode that no worker could report.

    Args:
        spec: The episode.
        error: What it was lost to.
        run_id: The run.
        environment: The environment.
        model: The policy's name.
        worker_id: The worker, if it is known.
        node_id: Its node.
    """
    labels = spec.labels
    timings = Timings(total=max(0.0, time.time() - spec.dispatched_at))
    record = EpisodeRecord(
        episode_id=spec.episode_id,
        task_id=spec.task_id,
        group_id=spec.group_id,
        sample_index=spec.sample_index,
        run_id=run_id,
        environment=environment.name,
        split=spec.split,
        suite=labels.suite,
        user_task=labels.user_task,
        injection_task=labels.injection_task,
        attack=labels.attack,
        **setup_labels(environment),
        status="failed",
        error=error,
        messages=prompt_messages(spec.row),
        steps=[],
        model=model,
        sampling=spec.sampling_json,
        usage=Usage(),
        timings=timings,
        attempt=spec.attempt,
        started_at=spec.dispatched_at,
        worker_id=worker_id,
        node_id=node_id,
    )
    try:
        record.digest = digest_of(record)
    except PydanticSerializationError:
        record = EpisodeRecord.model_validate(replace_invalid_unicode(record.model_dump()))
        record.digest = digest_of(record)
    return EpisodeResult(
        episode_id=spec.episode_id,
        status="failed",
        failure=error.kind,
        reward=None,
        metrics={},
        error_stage=error.stage,
        error_message=f"{error.type}: {error.message}",
        error_traceback=error.traceback,
        labels=labels,
        usage=Usage(),
        timings=timings,
        record=record.model_dump_json(),
    )


def replace_invalid_unicode(value: Any) -> Any:
    """Returns the same value, with `?` for what is in its text but in no UTF-8: half of a surrogate pair."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {name: replace_invalid_unicode(each) for name, each in cast(dict[str, Any], value).items()}
        case list():
            return [replace_invalid_unicode(each) for each in cast(list[Any], value)]
        case _:
            return value


def prompt_messages(row: dict[str, Any]) -> list[Message]:
    """A row's prompt as records; of one that is no conversation, its text as it stands. Never raises."""
    prompt = row.get("prompt")
    try:
        messages = to_records(prompt)
        return [Message.model_validate(replace_invalid_unicode(message.model_dump())) for message in messages]
    except Exception:  # noqa: BLE001 - whatever a dataset holds, an episode of it has a record
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, default=repr)
        return [Message(role="user", content=text.encode("utf-8", "replace").decode())]
