"""The record of an episode, made of what became of it: the one place where a failure becomes a record."""

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic_core import PydanticSerializationError

from workers.agent_results import write_agents
from workers.environments.base import Rollout, RolloutEnvironment
from workers.environments.setup_labels import setup_labels
from workers.environments.tracing import EpisodeTrace
from workers.errors import SandboxStartError, UnrecordableEpisode
from workers.failures import failure_kind, root_error
from workers.handed_on import hide_secrets
from workers.lost_episodes import make_lost_result, prompt_messages, replace_invalid_unicode
from workers.printed import EpisodeOutput
from workers.record_digest import digest_of
from workers.records import EpisodeError, EpisodeRecord, EpisodeSpec, StepRecord, Timings, Usage
from workers.sandbox.base import Session
from workers.settings import WorkerSettings

_log = logging.getLogger(__name__)


@dataclass
class Play:
    """An episode in flight."""

    spec: EpisodeSpec
    trace: EpisodeTrace
    started_at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    """The same moment by a clock that nobody sets: what has passed is measured by it."""
    session: Session | None = None
    states: dict[str, str] = field(default_factory=dict[str, str])
    printed: EpisodeOutput = field(default_factory=EpisodeOutput)


class RecordMaker:
    """Makes the records of one worker's episodes.

    Args:
        settings: The worker's.
        environment: What is played.
        worker_id: The worker.
        node_id: Its node.
    """

    def __init__(
        self, settings: WorkerSettings, environment: RolloutEnvironment, worker_id: str, node_id: str
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._worker_id = worker_id
        self._node_id = node_id
        self._setup_labels = setup_labels(settings.environment)

    def make(
        self, play: Play, outcome: Rollout | BaseException, timings: Timings, own: Session | None
    ) -> tuple[EpisodeRecord, str]:
        """An episode's record and the line that it is; if it cannot be made, a record that says why.

        Args:
            play: The episode.
            outcome: What it came to, or what it failed with.
            timings: Its timings.
            own: Its session, where its sandbox is its own.
        """
        try:
            return _seal_record(self._record(play, outcome, timings, own))
        except Exception as error:  # noqa: BLE001 - whatever an environment has left in its state
            failure: BaseException = error
        if isinstance(failure, PydanticSerializationError):
            failure = UnrecordableEpisode(f"it holds text that cannot be written as UTF-8: {failure}")
        elif not isinstance(outcome, BaseException):
            failure = UnrecordableEpisode(f"{type(failure).__name__}: {failure}")
        try:
            record = self._record(
                play, outcome if isinstance(outcome, BaseException) else failure, timings, own
            )
            return _seal_record(EpisodeRecord.model_validate(replace_invalid_unicode(record.model_dump())))
        except Exception as error:  # noqa: BLE001 - not even its steps can be written down
            _log.warning("an episode has a record without its steps: %r", error)
        cause = outcome if isinstance(outcome, BaseException) else failure
        lost = make_lost_result(
            play.spec,
            _error(cause, play.trace, own),
            run_id=self._settings.run_id,
            environment=self._settings.environment,
            model=self._settings.policy.model,
            worker_id=self._worker_id,
            node_id=self._node_id,
        )
        return _seal_record(EpisodeRecord.model_validate_json(lost.record))

    def _record(
        self, play: Play, outcome: Rollout | BaseException, timings: Timings, own: Session | None
    ) -> EpisodeRecord:
        spec, trace = play.spec, play.trace
        error = _error(outcome, trace, own) if isinstance(outcome, BaseException) else None
        rollout = (
            _collect_partial_rollout(self._environment, trace, spec)
            if isinstance(outcome, BaseException)
            else outcome
        )
        usage = Usage()
        for step in rollout.steps:
            if step.usage:
                usage.prompt_tokens += step.usage.prompt_tokens
                usage.completion_tokens += step.usage.completion_tokens
                if step.usage.cached_tokens is not None:
                    usage.cached_tokens = (usage.cached_tokens or 0) + step.usage.cached_tokens
        labels, versions = spec.labels, trace.turn_versions()
        return EpisodeRecord(
            episode_id=spec.episode_id,
            task_id=spec.task_id,
            group_id=spec.group_id,
            sample_index=spec.sample_index,
            run_id=self._settings.run_id,
            environment=self._settings.environment.name,
            split=spec.split,
            suite=labels.suite,
            user_task=labels.user_task,
            injection_task=labels.injection_task,
            attack=labels.attack,
            **self._setup_labels,
            status="failed" if error else "finished",
            reward=rollout.reward,
            metrics=json.dumps(rollout.metrics),
            details=_details(play.session, rollout),
            agents=write_agents(rollout.agents),
            connections=_connections(play.session),
            stop_reason=rollout.stop_reason,
            is_truncated=rollout.is_truncated,
            error=error,
            messages=rollout.messages,
            tool_schemas=rollout.tool_schemas,
            initial_state_id=play.session.opened.state_id if play.session and play.session.opened else None,
            initial_state_patch=trace.initial_patch(),
            steps=rollout.steps,
            model=self._settings.policy.model,
            sampling=spec.sampling_json,
            policy_version=versions[0] if versions else None,
            last_policy_version=versions[-1] if versions else None,
            usage=usage,
            timings=timings,
            attempt=spec.attempt,
            started_at=play.started_at,
            worker_id=self._worker_id,
            node_id=self._node_id,
            sandbox_id=play.session.sandbox.id if play.session else None,
        )


def _seal_record(record: EpisodeRecord) -> tuple[EpisodeRecord, str]:
    """A record with its digest and without secrets, and the line of JSON text that it is."""
    record.digest = digest_of(record)
    text = record.model_dump_json()
    hidden = hide_secrets(text)
    if hidden == text:
        return record, text
    record = EpisodeRecord.model_validate_json(hidden)
    record.digest = digest_of(record)
    return record, record.model_dump_json()


def _collect_partial_rollout(
    environment: RolloutEnvironment, trace: EpisodeTrace, spec: EpisodeSpec
) -> Rollout:
    """What there is of an episode that failed: its turns so far, no reward, no metrics."""
    taken: list[StepRecord] = []
    tools = "[]"
    try:
        taken, tools = environment.steps_so_far(trace)
    except Exception as error:  # noqa: BLE001 - what the environment left behind may be what has failed
        _log.warning("the steps of task %s cannot be put on record: %s", spec.task_id, error)
    for step in taken:
        step.done = False  # it did not come to its end
    messages = [*taken[-1].prompt_messages, taken[-1].action] if taken else prompt_messages(spec.row)
    return Rollout(messages, tools, taken, None, {}, None, is_truncated=False)


def _details(session: Session | None, rollout: Rollout) -> str | None:
    """What its toolset's evaluation gave beside the metrics, or its environment has noted, as JSON text."""
    scores = session.scores if session is not None else None
    details = scores.details if scores is not None and scores.details else rollout.details
    return json.dumps(details) if details else None


def _connections(session: Session | None) -> str | None:
    """What its programs asked of allowed hosts, as JSON text."""
    hosts = session.allowed_hosts if session is not None else None
    if hosts is None:
        return None
    asked: list[dict[str, Any]] = [asdict(connection) for connection in hosts.connections]
    if hosts.left_out:
        asked.append({"left_out": hosts.left_out})
    return json.dumps(asked)


def _error(outcome: BaseException, trace: EpisodeTrace, own: Session | None) -> EpisodeError:
    cause = root_error(outcome)
    stage = "setup" if isinstance(cause, SandboxStartError) else trace.stage
    return EpisodeError.of(stage, failure_kind(outcome, own), cause)
