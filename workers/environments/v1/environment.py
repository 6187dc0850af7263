"""Environments written against verifiers' v1 API: a taskset, and one agent that plays its tasks."""

import asyncio
import copy
import json
import logging
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
from workers.environments.v1.loading import BOUND, load_env
from workers.environments.v1.play import Play
from workers.environments.v1.runner import adapt_runner, seat_chat_loops
from workers.environments.v1.sandboxes import find_toolset
from workers.errors import EnvironmentLoadError, EpisodeFailed
from workers.records import StepRecord
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import EnvironmentSettings, PolicyEndpoint, Split

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
    has_tools = False

    def __init__(
        self,
        settings: EnvironmentSettings,
        search_path: Path | None = None,
        module: ModuleType | None = None,
    ) -> None:
        self._settings = settings
        with log_library_output():
            self._env: Any = load_env(settings, module or import_environment(settings, search_path))
        seat = self._env.config.agent
        own = seat.sampling
        self._seat_sampling: dict[str, Any] = own.model_dump(exclude_none=True) if own is not None else {}
        seat.sampling = None  # it is merged with the run's, which wins
        self._task_class: Any = self._env._task_cls
        self.toolset: ToolsetSpec | None = find_toolset(self._env)
        self._asks_tokens = False
        self._ready: asyncio.Event | None = None

    @property
    def sampling_args(self) -> dict[str, Any]:
        """The seat's own sampling arguments, which an actor's win over."""
        return dict(self._seat_sampling)

    def rows(self) -> Rows:
        """The taskset's tasks; both splits have the same.

        Raises:
            EnvironmentLoadError: Its code raised, or it has no end and there is no bound.
        """
        with log_library_output():
            try:
                return [self._row(task, number) for number, task in enumerate(self._bounded())]
            except EnvironmentLoadError:
                raise
            except Exception as error:
                _log.warning("the tasks of %s cannot be made", self._settings.id, exc_info=error)
                said = " ".join(str(error).split())[:500]
                raise EnvironmentLoadError(
                    f"environment.id: the tasks of {self._settings.id} cannot be made: "
                    f"{type(error).__name__}: {said}; the traceback is in the log"
                ) from error

    def _bounded(self) -> Any:
        bound: Any = self._settings.args.get(BOUND)
        taskset = self._env.taskset
        if bound is None:
            if taskset.INFINITE:
                raise EnvironmentLoadError(
                    f"environment.args.{BOUND}: {self._settings.id} yields tasks without end; give how many "
                    "are played"
                )
            return taskset
        if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
            raise EnvironmentLoadError(
                f"environment.args.{BOUND}: got {bound!r}; give a number of tasks, at least 1"
            )
        return taskset.head(bound)

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

    def open_client(self, endpoint: PolicyEndpoint) -> PolicyClient:
        """See `RolloutEnvironment.open_client`."""
        self._asks_tokens = endpoint.token_ids
        return V1PolicyClient(endpoint)

    async def play(
        self, row: dict[str, Any], actor: Actor, trace: EpisodeTrace, session: Session | None
    ) -> Rollout:
        """See `RolloutEnvironment.play`."""
        await self._start(actor.client)
        data = self._task_class.data_type().model_validate_json(row["task_data"])
        task = self._task_class(data, self._env.taskset.config.task)
        answer: Any = getattr(data, "answer", None)
        trace.state = play = Play(
            answer=answer if isinstance(answer, str) else None,
            sandboxes=trace.sandboxes,
            serve=self._env._interception.serve,
        )
        trace.stage = "tools"  # what is not said to be another's is the taskset's
        token = tracing.current_trace.set(trace)
        try:
            episode = await self._env.run_slot(RunSlot(task), self._context(actor))
        finally:
            tracing.current_trace.reset(token)
            _note_times(trace, play)
        if not episode.ok:
            raise self._failure(episode, trace, play)
        [played] = episode.traces
        trace.stage = "scoring"
        return steps.make_rollout(play, played, self._asks_tokens)

    async def play_group(
        self, row: dict[str, Any], actor: Actor, traces: list[EpisodeTrace], sessions: list[Session | None]
    ) -> list[Rollout | BaseException]:
        """See `RolloutEnvironment.play_group`; v1 scores no groups."""
        plays = (self.play(row, actor, t, s) for t, s in zip(traces, sessions, strict=True))
        return await asyncio.gather(*plays, return_exceptions=True)

    def steps_so_far(self, trace: EpisodeTrace) -> tuple[list[StepRecord], str]:
        """See `RolloutEnvironment.steps_so_far`."""
        play = trace.state
        if not isinstance(play, Play) or not play.traces:
            return [], "[]"
        played = play.traces[-1]
        return steps.make_steps(play, played, self._asks_tokens, ended=False), steps.tool_schemas(played)

    async def tear_down(self) -> None:
        """Runs the environment's own `stop`, if it was started."""
        if self._ready is not None:
            await self._env.stop()
            await self._env._interception.stop()

    async def _start(self, client: Any) -> None:
        """What verifiers does once before its episodes, but that no server listens."""
        if self._ready is not None:
            await self._ready.wait()
            return
        self._ready = asyncio.Event()
        adapt_runner()
        self._env._interception = interception = WorkerInterception(client)
        seat_chat_loops(self._env, interception)
        try:
            await interception.start()
            await self._env.start()
        finally:
            self._ready.set()

    def _context(self, actor: Actor) -> Any:
        sampling = {**self._seat_sampling, **actor.sampling}
        if not {"max_tokens", "max_completion_tokens"} & sampling.keys():
            sampling["max_tokens"] = _MAX_TOKENS
        sampling.pop("n", None)
        for given in (self._seat_sampling, actor.sampling):
            sampling |= given.get("extra_body") or {}
        sampling.pop("extra_body", None)
        return ModelContext(
            model=actor.model, client=EvalClientConfig(), sampling=SamplingConfig.model_validate(sampling)
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


def _note_times(trace: EpisodeTrace, play: Play) -> None:
    """Where an episode's time went, and in which stage it ended."""
    for played in play.traces[-1:]:
        timing = played.timing
        trace.seconds["setup"] = _duration(timing.boot) + _duration(timing.setup)
        trace.seconds["scoring"] = _duration(timing.finalize) + _duration(timing.scoring)
        if timing.finalize.start:
            trace.stage = "scoring"
        elif not timing.agent.start:
            trace.stage = "setup"


def _duration(span: Any) -> float:
    return max(0.0, float(span.end) - float(span.start)) if span.start and span.end else 0.0
