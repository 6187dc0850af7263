"""Shell tasks that the policy plays in turns: a workspace, a shell, hidden tests at the end."""

import json
import time
from functools import partial
from typing import Any, Literal, cast

import verifiers as vf
from datasets import Dataset
from pydantic import Field, model_validator

from workers.environments.agents.settings import AgentArgs
from workers.environments.sandboxed import SandboxedEnv
from workers.environments.shell.dataset import (
    ShellTask,
    TaskSelection,
    make_rows,
    make_shell_task,
    select_cards,
)
from workers.environments.tool_errors import declare_tool_errors
from workers.errors import (
    EnvironmentLoadError,
    RequestRefused,
    SandboxDied,
    SandboxError,
    SessionLost,
    ToolsetError,
)
from workers.failures import has_ended_itself
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import SandboxSettings

Metric = Literal["solved", "tests_passed"]
_METRICS: tuple[Metric, ...] = ("solved", "tests_passed")
_CLEANING_UP = 15.0
"""Seconds beyond a command's own limit: to kill it with all that it started, and restore the shell."""
GRADING_SECONDS = 60.0
"""Seconds beyond all calls that are left for grading before `episode.timeout`: it gets no more, however long
`sandbox.call_timeout` is."""
_GRADING_SHARE = 0.8
"""Share of the limit of an evaluation that the hidden tests may take; the rest is for ending them."""
_TIME_IS_UP_TEXT = "the time for tools is over; the workspace is judged as it is"

SYSTEM_MESSAGE = (
    "You carry out a task in a Linux workspace, through tools. Paths are relative to the workspace, and the "
    "shell starts in it. There is no network; of Python there is the standard library only. When you are "
    "done, say so in a short message without a tool call: the workspace is then judged as it is."
)


class ShellArgs(TaskSelection):
    """`environment.args` of the environment `shell`."""

    system_message: str = SYSTEM_MESSAGE
    """System message."""
    max_turns: int = Field(default=24, gt=0)
    """Most actions of the policy in one episode."""
    reward: dict[Metric, float] = Field(default={"solved": 1.0}, min_length=1)
    """Weights of the metrics in the reward: `solved` is 1 if all hidden tests pass, `tests_passed` is the
    share of the tests that pass."""
    output_cap: int = Field(default=16 * 1024, ge=256, le=1024 * 1024)
    """Most bytes of a tool's answer. Of a longer answer, only the beginning and the end are kept."""
    command_timeout: float = Field(default=30.0, gt=0)
    """Seconds that a command may take if the policy sets no limit."""
    max_command_timeout: float = Field(default=120.0, gt=0)
    """Longest limit, in seconds, that the policy may set for a command."""

    tools_timeout: float = Field(default=600.0, gt=0)
    """Seconds that all tool calls of an episode may take together. Then the episode ends and is graded as it
    is. `episode.timeout` would end it without a grade, so it must be longer than this, the longest last
    command and a minute for grading together, and leave time for the policy."""

    agent: AgentArgs | None = None
    """An agent that plays instead of the environment's own loop: see [agents.md](agents.md). Null: no
    agent."""

    @model_validator(mode="after")
    def _check_timeouts(self) -> "ShellArgs":
        if self.command_timeout > self.max_command_timeout:
            raise ValueError(
                f"command_timeout: {self.command_timeout:g} is more than max_command_timeout, "
                f"{self.max_command_timeout:g}"
            )
        return self


class ShellEnv(SandboxedEnv):
    """Multi-turn episodes on the bundled shell tasks.

    Args:
        args: What to play.
        sandbox: Settings of the sandbox that the environment brings up when nobody gives it one.
        toolset: What its sandboxes have loaded. None: `shell_toolset`.
    """

    def __init__(self, args: ShellArgs, sandbox: SandboxSettings, toolset: ToolsetSpec | None = None) -> None:
        super().__init__(
            toolset or shell_toolset(args),
            sandbox,
            eval_dataset=lambda: Dataset.from_list(make_rows(args, args.system_message)),
            max_turns=args.max_turns,
        )
        self.rubric = vf.Rubric(
            funcs=[*(_metric(name) for name in _METRICS), session_ended],
            weights=[*(args.reward.get(name, 0.0) for name in _METRICS), 0.0],
        )
        self._call_timeout = args.max_command_timeout + _CLEANING_UP
        self._tools_timeout = args.tools_timeout

    async def setup_state(self, state: vf.State) -> vf.State:
        """Opens the episode's session with the task's files; nothing else of the task goes in yet."""
        session = await self._session(state)
        task = task_of(state)
        opened = await session.open({"files": task.files})
        state["tool_defs"] = [
            vf.Tool(name=tool.name, description=tool.description, parameters=dict(tool.parameters))
            for tool in opened.tools
        ]
        state["oracle"] = task.solution.turns()
        state["tools_seconds"] = 0.0
        return state

    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        """Runs the tool calls of the last message, in order, in the episode's session."""
        last: Any = messages[-1]
        calls: list[Any] = (last.tool_calls or []) if isinstance(last, vf.AssistantMessage) else []
        answers: vf.Messages = []
        errors: list[bool] = []
        session = cast(Session, state["sandbox"])
        for call in calls:
            before = len(session.call_errors)
            content = await self._run(call, state)
            answers.append(vf.ToolMessage(content=content, tool_call_id=call.id))
            errors.append(any(session.call_errors[before:]) or len(session.call_errors) == before)
        declare_tool_errors(state, errors)
        if "session_ended" in state or state["tools_seconds"] > self._tools_timeout:
            state["final_env_response"] = answers
        return answers

    async def _evaluate_session(self, session: Session, state: vf.State) -> None:
        """Sends the hidden tests in."""
        if "session_ended" in state:
            return
        task = task_of(state)
        limit = min(GRADING_SECONDS, session.sandbox.settings.call_timeout)
        evidence = {
            "output": self.last_words(state),
            "tests": task.tests,
            "expected": task.expected,
            "seconds": _GRADING_SHARE * limit,
            **self.evidence(state),
        }
        try:
            scores = await session.evaluate(evidence, limit)
        except (SandboxDied, SessionLost, ToolsetError) as error:
            end_session(state, error)
            return
        shortages = scores.details.get("shortages")
        if shortages and session.sandbox.served > 1:
            raise SessionLost(f"others in its container may have left too little for {shortages}")
        state["scores"] = scores.metrics

    def last_words(self, state: vf.State) -> str | None:
        """What the policy has said last."""
        last = state["trajectory"][-1]["completion"]
        content = last[-1].content if last else None
        return content if isinstance(content, str) else None

    def evidence(self, state: vf.State) -> dict[str, Any]:
        """What else the toolset is told when it evaluates."""
        return {}

    async def _run(self, call: vf.ToolCall, state: vf.State) -> str:
        """What the policy reads of a tool call, be it well-formed or not."""
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError) as error:
            return f"the arguments of {call.name} are not JSON: {error}"
        if not isinstance(arguments, dict):
            return f"the arguments of {call.name} must be an object, got {type(arguments).__name__}"
        if state["tools_seconds"] > self._tools_timeout:
            return f"{call.name} was not run: {_TIME_IS_UP_TEXT}"
        began = time.monotonic()
        try:
            session = cast(Session, state["sandbox"])
            result = await session.call(call.name, cast(dict[str, Any], arguments), self._call_timeout)
        except RequestRefused as error:
            return f"{call.name} was not run: {error}"
        except (SandboxDied, SessionLost, ToolsetError) as error:
            return end_session(state, error)
        finally:
            state["tools_seconds"] += time.monotonic() - began
        if state["tools_seconds"] > self._tools_timeout:
            return f"{result.text}\n[{_TIME_IS_UP_TEXT}]"
        return result.text


def check_timeouts(args: ShellArgs, episode_timeout: float | None) -> None:
    """Sees that an episode is graded before it is ended.

    Args:
        args: What is to be played.
        episode_timeout: Seconds after which an episode is ended without a grade. None: never.

    Raises:
        EnvironmentLoadError: It may not be.
    """
    longest = args.tools_timeout + args.max_command_timeout + _CLEANING_UP + GRADING_SECONDS
    if episode_timeout is not None and longest >= episode_timeout:
        raise EnvironmentLoadError(
            f"environment.args.tools_timeout: {args.tools_timeout:g} lets an episode's tools and grading "
            f"take up to {longest:g} s (max_command_timeout is {args.max_command_timeout:g}), which must "
            f"be less than episode.timeout, {episode_timeout:g}: it ends an episode without a grade"
        )


def shell_toolset(args: ShellArgs) -> ToolsetSpec:
    """The toolset of a workspace with the policy's tools.

    Raises:
        EnvironmentLoadError: The selection names a task that there is not, or selects none.
    """
    images = {card.image for card in select_cards(args).values() if card.image is not None}
    return ToolsetSpec(
        image="shell",
        toolset="sandbox_images.shell.toolset:ShellToolset",
        config={
            "output_cap": args.output_cap,
            "command_timeout": args.command_timeout,
            "max_command_timeout": args.max_command_timeout,
        },
        session_users=True,
        task_images=tuple(sorted(images)),
    )


def task_of(state: vf.State) -> ShellTask:
    """The task that an episode plays."""
    info = cast(dict[str, Any], state["info"])
    return make_shell_task(info["name"], info["seed"], info.get("folder"))


async def session_ended(state: vf.State) -> float:
    """1 if what the model ran ended its own session, whose workspace is then not examined; else 0."""
    return float("session_ended" in state)


def end_session(state: vf.State, error: SandboxError) -> str:
    """Takes the end of a session from within for the end of its episode, and not for a failure to score it.

    A policy that could have its episodes thrown away would get rid of its bad ones. That its process misses
    a limit by `_CLEANING_UP` seconds is such an end too, and so is that of its container, unless the engine
    says that it came from outside. Where others have been in the same container, it may not have been its
    own doing.

    Returns:
        What the policy would read of it.

    Raises:
        SandboxError: It may not have been.
    """
    session = cast(Session, state["sandbox"])
    if not has_ended_itself(session, error):
        raise error
    session.failure = None
    state["scores"] = dict.fromkeys(_METRICS, 0.0)
    return state.setdefault("session_ended", f"[the session has ended, and the episode with it: {error}]")


def _metric(name: Metric) -> Any:
    async def metric(state: vf.State, name: Metric) -> float:
        return float(state["scores"][name])

    bound = partial(metric, name=name)
    bound.__name__ = name  # type: ignore[attr-defined]
    return bound
