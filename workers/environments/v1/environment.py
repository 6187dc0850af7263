"""Environments written against verifiers' v1 API: a taskset, and the agents that play its tasks."""

import asyncio
import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

from verifiers.v1.clients import EvalClientConfig, ModelContext
from verifiers.v1.env import RunSlot
from verifiers.v1.task import Task
from verifiers.v1.types import SamplingConfig

from workers.environments import tracing
from workers.environments.base import Actor, PolicyClient, Rollout, Rows
from workers.environments.library_output import log_library_output
from workers.environments.messages import to_record
from workers.environments.modules import import_environment
from workers.environments.tracing import EpisodeTrace
from workers.environments.v1 import steps
from workers.environments.v1.client import V1PolicyClient, WorkerInterception
from workers.environments.v1.loading import load_env
from workers.environments.v1.play import Play
from workers.environments.v1.runner import adapt_runner, seat_harnesses
from workers.environments.v1.sandboxes import find_toolset
from workers.environments.v1.seats import Seat, take_seats
from workers.environments.v1.selection import select_tasks
from workers.environments.v1.validation import validate_task
from workers.errors import EnvironmentLoadError, EpisodeFailed
from workers.policy.endpoint import sampling_args
from workers.records import StepRecord
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, Split

_log = logging.getLogger(__name__)
_Task: Any = Task
_MAX_TOKENS = 512
"""Most tokens sampled in one turn where neither the run nor the seat says."""


class V1TaskError(Exception):
    """A taskset's hook failed, of which verifiers has kept the words only."""


class V1Environment:
    """A taskset, played by verifiers' own runner: what it calls is called, in its order.

    Args:
        settings: Which environment, with which arguments.
        search_path: Folder to look in for a user's own module.
        module: The environment's module. None: it is imported.

    Raises:
        EnvironmentLoadError: There is no such environment, it does not load with these arguments, or it asks
            for what is not played yet.
    """

    api: Literal["classic", "v1"] = "v1"
    needs_groups = False

    def __init__(
        self,
        settings: EnvironmentSettings,
        search_path: Path | None = None,
        module: ModuleType | None = None,
    ) -> None:
        self._settings = settings
        with log_library_output():
            self._env: Any = load_env(settings, module or import_environment(settings, search_path))
        self._seats = take_seats(self._env)
        asked = {f"{seat.name}.model": seat.policy for seat in self._seats.values()}
        self.seat_policies = {key: policy for key, policy in asked.items() if policy is not None}
        self._task_class: Any = self._env._task_cls
        taskset = self._env.taskset
        self.has_tools = bool(
            self._task_class.toolsets(taskset.config.task) or taskset.toolsets(taskset.config)
        )
        self.toolset: ToolsetSpec | None = find_toolset(self._env)
        self._asks_tokens = False
        self._others: dict[str, PolicyEndpoint] = {}
        self._serving: asyncio.Task[WorkerInterception] | None = None

    @property
    def sampling_args(self) -> dict[str, Any]:
        """The own sampling arguments of the first seat of the run's policy, which an actor's win over."""
        own = [seat.sampling for seat in self._seats.values() if seat.policy is None]
        return dict(own[0]) if own else {}

    def rows(self) -> Rows:
        """The taskset's tasks; both splits have the same.

        Raises:
            EnvironmentLoadError: Its code raised, or it has no end and there is no bound.
        """
        with log_library_output():
            try:
                tasks = select_tasks(self._settings, self._env.taskset)
                return [self._row(task, number) for number, task in tasks]
            except EnvironmentLoadError:
                raise
            except Exception as error:
                _log.warning("the tasks of %s cannot be made", self._settings.id, exc_info=error)
                said = " ".join(str(error).split())[:500]
                raise EnvironmentLoadError(
                    f"environment.id: the tasks of {self._settings.id} cannot be made: "
                    f"{type(error).__name__}: {said}; the traceback is in the log"
                ) from error

    def _row(self, task: Any, number: int) -> dict[str, Any]:
        data = task.data
        prompt: Any = data.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
        if data.system_prompt:
            messages = [{"role": "system", "content": data.system_prompt}, *messages]
        return {
            "example_id": number,
            "prompt": [to_record(message).model_dump(exclude_none=True) for message in messages],
            "info": json.dumps({"task_id": self._task_id(task, number)}),
            "task_data": json.dumps(data.model_dump(mode="json"), sort_keys=True),
        }

    def _task_id(self, task: Any, number: int) -> str:
        """The task's own key or id where its author gives one, else its number."""
        if type(task).key is not _Task.key:
            return str(task.key)
        named = getattr(task.data, "id", None)
        return str(number if named is None else named)

    def of_split(self, split: Split) -> Self:
        """The same environment: see `rows`."""
        other = copy.copy(self)
        other._settings = self._settings.model_copy(update={"split": split})
        return other

    def open_client(
        self, endpoint: PolicyEndpoint, others: Mapping[str, PolicyEndpoint] | None = None
    ) -> PolicyClient:
        """See `RolloutEnvironment.open_client`."""
        self._asks_tokens = endpoint.token_ids
        self._others = dict(others or {})
        return V1PolicyClient(endpoint, others)

    async def play(
        self, row: dict[str, Any], actor: Actor, trace: EpisodeTrace, session: Session | None
    ) -> Rollout:
        """See `RolloutEnvironment.play`."""
        trace.stage = "setup"
        interception = await self._serve(actor.client)
        slot: Any = RunSlot(self._task_of(row))
        answer: Any = getattr(slot.task.data, "answer", None)
        contexts = {name: self._context(seat, actor) for name, seat in self._seats.items()}
        trace.state = play = Play(
            slot=slot,
            contexts=contexts,
            interception=interception,
            answer=answer if isinstance(answer, str) else None,
            sandboxes=trace.sandboxes,
            serve=interception.serve,
        )
        trace.stage = "tools"  # what is not said to be another's is the taskset's
        token = tracing.current_trace.set(trace)
        try:
            episode = await self._env.run_slot(slot, next(iter(contexts.values())))
        finally:
            tracing.current_trace.reset(token)
            _note_times(trace, slot.traces)
        if not (episode.ok or self._env.complete(episode)):
            raise self._failure(episode, trace, play)
        trace.stage = "scoring"
        return steps.make_rollout(play, list(episode.traces), self._seats, self._asks_tokens)

    def validate_task(
        self, row: dict[str, Any], sandbox: SandboxSettings | None = None
    ) -> tuple[float | None, str | None]:
        """What `validate_task` of `validation` finds in a task of `rows`.

        Args:
            row: The task.
            sandbox: What containers are like, where the environment needs them.
        """
        with log_library_output():
            return asyncio.run(validate_task(self._task_of(row), self.toolset, sandbox))

    def _task_of(self, row: dict[str, Any]) -> Any:
        data = self._task_class.data_type().model_validate_json(row["task_data"])
        return self._task_class(data, self._env.taskset.config.task)

    async def play_group(
        self, row: dict[str, Any], actor: Actor, traces: list[EpisodeTrace], sessions: list[Session | None]
    ) -> list[Rollout | BaseException]:
        """See `RolloutEnvironment.play_group`; v1 scores no groups."""
        plays = (self.play(row, actor, t, s) for t, s in zip(traces, sessions, strict=True))
        return await asyncio.gather(*plays, return_exceptions=True)

    def steps_so_far(self, trace: EpisodeTrace) -> tuple[list[StepRecord], str]:
        """See `RolloutEnvironment.steps_so_far`."""
        play = trace.state
        if not isinstance(play, Play):
            return [], "[]"
        played: list[Any] = list(play.slot.traces)
        taken = steps.make_steps(play, played, self._seats, self._asks_tokens, ended=False)
        return taken, steps.tool_schemas(played)

    async def tear_down(self) -> None:
        """Runs the environment's own `stop`, if it was started, and ends what its episodes shared."""
        if self._serving is not None:
            await self._env.stop()
            await self._env._interception.stop()

    async def _serve(self, client: Any) -> WorkerInterception:
        """What verifiers does once before its episodes, but that no server listens.

        Raises:
            EpisodeFailed: It raised.
        """
        if self._serving is None:
            self._serving = asyncio.create_task(self._begin_serving(client))
        try:
            return await asyncio.shield(self._serving)
        except Exception as error:
            raise EpisodeFailed(f"the environment does not start: {type(error).__name__}: {error}") from error

    async def _begin_serving(self, client: Any) -> WorkerInterception:
        adapt_runner()
        self._env._interception = interception = WorkerInterception(client)
        seat_harnesses(self._env, interception)
        await interception.start()
        taskset = self._env.taskset
        self._env._shared_tools = await interception.tools.serve_shared(taskset.toolsets(taskset.config))
        await self._env.start()
        return interception

    def _context(self, seat: Seat, actor: Actor) -> Any:
        """By which model a seat plays, and how that is sampled."""
        asked = actor.sampling
        if seat.policy is not None:
            asked = sampling_args(self._others[seat.policy], None)
        sampling = {**seat.sampling, **asked}
        if not {"max_tokens", "max_completion_tokens"} & sampling.keys():
            sampling["max_tokens"] = _MAX_TOKENS
        sampling.pop("n", None)
        for given in (seat.sampling, asked):
            sampling |= given.get("extra_body") or {}
        sampling.pop("extra_body", None)
        return ModelContext(
            model=seat.model or actor.model,
            client=EvalClientConfig(),
            sampling=SamplingConfig.model_validate(sampling),
        )

    def _failure(self, episode: Any, trace: EpisodeTrace, play: Play) -> EpisodeFailed:
        """What an episode failed with: what was raised, where it is known."""
        last = episode.last_error or next((t.last_error for t in reversed(episode.traces) if not t.ok), None)
        said = f"{last.type}: {last.message}" if last is not None else "it failed, and does not say how"
        cause = play.failure
        if last is not None and last.type == "ProviderError" and play.policy_failure is not None:
            trace.stage, cause = "policy", play.policy_failure
        if last is not None and last.type == "SandboxError" and play.sandbox_failure is not None:
            cause = play.sandbox_failure
        failed = EpisodeFailed(said)
        failed.__cause__ = cause or _as_raised(last)
        return failed


def _as_raised(error: Any) -> V1TaskError:
    """An error of which verifiers has kept its class's name and its words."""
    if error is None:
        return V1TaskError("it failed, and does not say how")
    return type(str(error.type), (V1TaskError,), {})(str(error.message))


def _note_times(trace: EpisodeTrace, played: list[Any]) -> None:
    """Where an episode's time went, and in which stage it ended."""
    timings = [each.timing for each in played]
    trace.seconds["setup"] = sum(_duration(timing.boot) + _duration(timing.setup) for timing in timings)
    trace.seconds["scoring"] = sum(_duration(t.finalize) + _duration(t.scoring) for t in timings)
    for timing in timings[-1:]:
        if timing.finalize.start:
            trace.stage = "scoring"
        elif not timing.agent.start:
            trace.stage = "setup"


def _duration(span: Any) -> float:
    return max(0.0, float(span.end) - float(span.start)) if span.start and span.end else 0.0
