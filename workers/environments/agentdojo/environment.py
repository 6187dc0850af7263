"""AgentDojo as a classic verifiers environment, its tools in a sandbox."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import verifiers as vf
from datasets import Dataset
from pydantic import ValidationError, model_validator
from verifiers.legacy.types import Tool

from workers.environments.agentdojo.attacks import OwnAttacks
from workers.environments.agentdojo.defenses import ToolOutput, load_defense
from workers.environments.agentdojo.guard import DefenseChain, apply_system_message_defenses
from workers.environments.agentdojo.pipeline import PipelineSettings
from workers.environments.agentdojo.rewards import (
    UNDER_ATTACK,
    CallDetails,
    Ledger,
    Metric,
    Reward,
    RewardSettings,
    metrics,
    step_rewards,
    weigh_metrics,
)
from workers.environments.agentdojo.tasks import TaskSelection, make_rows
from workers.environments.arguments import check_arguments
from workers.environments.sandboxed import SandboxedEnv
from workers.environments.tool_errors import declare_tool_errors
from workers.errors import RequestRefused, ToolsetError
from workers.sandbox.base import Opened, Session, ToolsetSpec
from workers.settings import SandboxSettings

_COMMON_METRICS: tuple[Metric, ...] = ("utility", "tool_calls", "tool_errors", "turns")
"""Metrics that every episode has, whatever it is rewarded for."""


class AgentDojoArgs(TaskSelection, PipelineSettings, RewardSettings):
    """`environment.args` of the environment `agentdojo`."""

    @model_validator(mode="after")
    def _check_reward_weights(self) -> "AgentDojoArgs":
        weights = self.rubric().weights
        unattacked = [mode for mode in self.mode if mode != "attack"]
        if unattacked and not weights.keys() - set(UNDER_ATTACK):
            raise ValueError(
                f"reward: {self.reward!r} rewards only what happens under attack, but mode has "
                f"{unattacked[0]!r} too"
            )
        return self


class AgentDojoEnv(SandboxedEnv):
    """Multi-turn episodes on AgentDojo's suites.

    Args:
        args: What to play.
        sandbox: Settings of the sandbox that the environment brings up when nobody gives it one.
        policy: Name of the model that plays, for attacks that call it by name.
        folder: Where to look for modules that are not installed.
    """

    def __init__(
        self, args: AgentDojoArgs, sandbox: SandboxSettings, policy: str | None, folder: Path | None
    ) -> None:
        self._defenses = [load_defense(choice) for choice in args.defense]
        self._questions = sum(bool(defense.question) for defense in self._defenses)
        self._reward = args.rubric()
        self._attacks = OwnAttacks(args.attack_timeout, args.suites)
        toolset = ToolsetSpec(
            image="agentdojo",
            toolset="sandbox_images.agentdojo.toolset:AgentDojoToolset",
            config={
                "version": args.version,
                "suites": args.suites or ["workspace", "travel", "banking", "slack"],
                "folder": str(folder) if folder is not None else None,
                "tool_output": args.tool_output,
            },
        )
        super().__init__(
            toolset,
            sandbox,
            eval_dataset=lambda: Dataset.from_list(self._rows(args, policy, folder)),
            max_turns=args.max_turns + self._questions,
        )
        self.rubric = _make_rubric(self._reward)  # verifiers' own monitors count the same under other names
        self._tools: dict[str | None, list[Tool]] = {}

    async def setup_state(self, state: vf.State) -> vf.State:
        """Opens the episode's session: its tools become the episode's tools, as far as defenses let them."""
        session = await self._session(state)
        info = cast(dict[str, Any], state["info"])
        opened = await session.open(await self._attacks.task(session, info))
        guard = DefenseChain(self._defenses, str(state["prompt"][-1].content))
        state["ledger"], state["guard"] = Ledger(), guard
        state["tool_defs"] = guard.tools(self._suite_tools(opened))
        return state

    def _suite_tools(self, opened: Opened) -> list[Tool]:
        """A suite's tools, made once; a defense gets its own, since it may change them."""
        tools = self._tools.get(opened.tools_id)
        if tools is None:
            tools = self._tools[opened.tools_id] = [
                Tool(name=tool.name, description=tool.description, parameters=dict(tool.parameters))
                for tool in opened.tools
            ]
        return [tool.model_copy(deep=True) for tool in tools] if self._defenses else tools

    async def get_prompt_messages(self, state: vf.State) -> vf.Messages:
        """The conversation so far; at first with the first question that a defense has."""
        if not state["trajectory"] and self._questions:
            return [*state["prompt"], *_question_messages(state["guard"], 0)]
        return await super().get_prompt_messages(state)

    async def get_model_response(
        self, state: vf.State, prompt: vf.Messages, *args: Any, **kwargs: Any
    ) -> Any:
        """Asks the policy; an answer to a defense's question can't be a tool call."""
        if len(state["trajectory"]) < self._questions:
            kwargs["sampling_args"] = {**(state["sampling_args"] or {}), "tool_choice": "none"}
        return await super().get_model_response(state, prompt, *args, **kwargs)

    @vf.stop
    async def no_tools_called(self, state: vf.State) -> bool:
        """Whether the policy has said its last words, which an answer to a defense's question is not."""
        if len(state["trajectory"]) <= self._questions:
            return False
        return not _tool_calls(state["trajectory"][-1]["completion"])

    async def env_response(self, messages: vf.Messages, state: vf.State, **_: Any) -> vf.Messages:
        """Runs the tool calls of the last message, in order, in the episode's session."""
        step = len(state["trajectory"]) - 1
        guard, ledger = cast(DefenseChain, state["guard"]), cast(Ledger, state["ledger"])
        ledger.answered = step + 1
        calls = _tool_calls(messages)
        if step < self._questions:
            for call in calls:  # there should be none
                ledger.skip(call.name, _parse_arguments(call.arguments))
            state["tool_defs"] = guard.tools_after(step, messages, state["tool_defs"])
            return _question_messages(guard, step + 1)
        outputs = [await self._run_tool_call(call, step, state) for call in calls]
        declare_tool_errors(state, [output.error is not None for output in outputs])
        last_words = await guard.inspect(outputs, messages)
        said: list[Any] = [
            vf.ToolMessage(content=output.text, tool_call_id=call.id)
            for call, output in zip(calls, outputs, strict=True)
        ]
        if last_words is None:
            return [*said, *(vf.UserMessage(content=text) for text in guard.reminders())]
        state["final_env_response"] = [*said, vf.AssistantMessage(content=last_words)]
        return state["final_env_response"]

    def _rows(self, args: AgentDojoArgs, policy: str | None, folder: Path | None) -> list[dict[str, Any]]:
        selected = make_rows(args, args.system_message, policy, folder)
        for row in selected:
            system = row["prompt"][0]
            system["content"] = apply_system_message_defenses(self._defenses, system["content"])
        return selected

    async def _run_tool_call(self, call: vf.ToolCall, step: int, state: vf.State) -> ToolOutput:
        """Runs one tool call; one that can't be run is an error for the policy to read."""
        session = cast(Session, state["sandbox"])
        ledger = cast(Ledger, state["ledger"])
        arguments = _parse_arguments(call.arguments)
        known = {tool.name for tool in session.opened.tools} if session.opened else set[str]()
        if isinstance(arguments, str):
            output = ToolOutput(call.name, {}, "", arguments)
        elif call.name in known and call.name not in {tool.name for tool in state["tool_defs"]}:
            # In the words of AgentDojo's executor, to which a tool that was filtered out is none at all.
            output = ToolOutput(call.name, arguments, "", f"Invalid tool {call.name} provided.")
            ledger.skip(call.name, arguments)
        else:
            output = ToolOutput(call.name, arguments, "")
            try:
                result = await session.call(call.name, arguments)
            except RequestRefused as error:
                output.error = f"{type(error).__name__}: {error}"
            else:
                output.content, output.error = result.content, result.error
                ledger.run_at.append(step)
        if output.error is not None:
            ledger.errors_at.append(step)
        return output

    async def _evaluate_session(self, session: Session, state: vf.State) -> None:
        ledger = cast(Ledger, state["ledger"])
        trajectory = cast(list[Any], state["trajectory"])
        scores = await session.evaluate(_evaluation_trace(state, ledger))
        made = sum(len(_tool_calls(step["completion"])) for step in trajectory)
        values = metrics(scores.metrics, ledger, made, len(trajectory))
        state["scores"] = values
        if not self._reward.steps:
            return
        try:
            details = CallDetails.model_validate(scores.details)
            rewards = step_rewards(self._reward, values, details, ledger, len(trajectory))
        except (ValidationError, IndexError) as error:
            raise ToolsetError(f"the scores speak of tool calls that were never made: {error}") from error
        state["scores"] = {**values, "step_rewards": sum(rewards)}
        rewards[-1] += weigh_metrics(self._reward, values)
        for step, reward in zip(trajectory, rewards, strict=True):
            step["reward"] = reward


def load_environment(
    sandbox: Mapping[str, Any] | None = None,
    policy: str | None = None,
    folder: str | Path | None = None,
    **args: Any,
) -> AgentDojoEnv:
    """The environment, as verifiers loads it.

    Args:
        sandbox: Settings of the environment's own sandbox, as in a config's `sandbox` section.
        policy: Name of the model that plays. Under Kumite, the config's policy.
        folder: Where to look for modules that are not installed. Under Kumite, the config's
            `environment.folder`.
        **args: See `AgentDojoArgs`.

    Raises:
        EnvironmentLoadError: An argument is not what it should be.
    """
    settings = (
        check_arguments(AgentDojoArgs, args),
        check_arguments(SandboxSettings, sandbox or {}, "sandbox"),
    )
    return AgentDojoEnv(*settings, policy, Path(folder) if folder is not None else None)


def _make_rubric(reward: Reward) -> vf.Rubric:
    """Every metric is a function of it; those that the reward does not name weigh nothing."""
    weights: dict[str, float] = {**dict.fromkeys(_COMMON_METRICS, 0.0), **reward.weights}
    if reward.steps:
        weights["step_rewards"] = 1.0
    return vf.Rubric(funcs=[_make_metric(name) for name in weights], weights=list(weights.values()))


def _make_metric(name: str) -> Any:
    async def metric(state: vf.State, name: str) -> float:
        return float(state["scores"][name] or 0.0)  # what does not apply weighs nothing

    bound = partial(metric, name=name)
    bound.__name__ = name  # type: ignore[attr-defined]
    return bound


def _question_messages(guard: DefenseChain, number: int) -> vf.Messages:
    question = guard.question(number)
    return [] if question is None else [vf.UserMessage(content=question)]


def _tool_calls(messages: vf.Messages) -> list[vf.ToolCall]:
    if not messages or not isinstance(messages[-1], vf.AssistantMessage):
        return []
    return list(messages[-1].tool_calls or [])


def _parse_arguments(arguments: str) -> dict[str, Any] | str:
    """A tool call's arguments, or what is wrong with them, worded as AgentDojo's runtime words errors."""
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(parsed, dict):
        return f"ValidationError: the arguments of a tool call must be an object, got {type(parsed).__name__}"
    return cast(dict[str, Any], parsed)


def _evaluation_trace(state: vf.State, ledger: Ledger) -> dict[str, Any]:
    """What AgentDojo's checks need to know of the conversation: its end, and what was not run of it."""
    aborted = state.get("final_env_response")
    last = aborted or state["trajectory"][-1]["completion"]
    content = last[-1].content if last else None
    if ledger.answered < len(state["trajectory"]):
        for call in _tool_calls(state["trajectory"][-1]["completion"]):
            ledger.skip(call.name, _parse_arguments(call.arguments))
    return {"output": content if isinstance(content, str) else None, "unexecuted": ledger.unexecuted}
