"""AgentDojo's own side: its pipelines, its runner, its environments, with a script for a model."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import yaml
from agentdojo.agent_pipeline import agent_pipeline
from agentdojo.agent_pipeline.agent_pipeline import AgentPipeline, PipelineConfig
from agentdojo.agent_pipeline.errors import AbortAgentError
from agentdojo.agent_pipeline.llms import openai_llm
from agentdojo.agent_pipeline.llms.openai_llm import OpenAILLM
from agentdojo.agent_pipeline.pi_detector import TransformersBasedPIDetector
from agentdojo.attacks import load_attack
from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import FunctionCall, TaskEnvironment
from agentdojo.task_suite import task_suite
from agentdojo.task_suite.load_suites import get_suite
from openai import NotGiven
from openai.types.chat import ChatCompletion

from tests.parity.conversation import from_openai
from tests.parity.episode import Played, Setting, Task, plain_state
from tests.parity.families import FAMILIES, Family
from tests.parity.script import Action, Levelled, Lines, Policy, Script


class ScriptedClient:
    """An OpenAI client, as far as AgentDojo uses one."""

    def __init__(self) -> None:
        self.chat = self.completions = self
        self.script: Policy | None = None
        self.played = Played()
        self.keeps_requests = False

    def create(
        self, messages: Any, tools: Any = (), tool_choice: Any = None, **sampling: Any
    ) -> ChatCompletion:
        if self.keeps_requests:
            request = {"messages": messages, "tools": tools, "tool_choice": tool_choice, **sampling}
            sent = {name: value for name, value in request.items() if not isinstance(value, NotGiven)}
            self.played.requests.append(json.loads(json.dumps(sent)))
        said = from_openai(messages)
        offered = [tool["function"] for tool in tools] if isinstance(tools, list) else []
        self.played.saw(said, offered)
        self.played.sampling.append({"temperature": sampling.get("temperature")})
        assert self.script is not None
        return completion(self.script.act(said, offered, tool_choice != "none"))


def completion(action: Action) -> ChatCompletion:
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.text},
        }
        for call in action.calls
    ]
    message = {"role": "assistant", "content": action.content, "tool_calls": calls or None}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return ChatCompletion.model_validate(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}
    )


class WatchedPipeline(AgentPipeline):
    """AgentDojo's pipeline; remembers the environment that it ends with."""

    environment: TaskEnvironment | None = None

    def query(self, *args: Any, **kwargs: Any) -> Any:
        try:
            result = super().query(*args, **kwargs)
        except AbortAgentError as abort:
            self.environment = abort.task_environment
            raise
        self.environment = result[2]
        return result


class Upstream:
    """AgentDojo's runner on one suite."""

    def __init__(self, setting: Setting) -> None:
        self.suite = get_suite(setting.version, setting.suite)
        self.client = ScriptedClient()
        llm = OpenAILLM(self.client, setting.model)  # type: ignore[arg-type]
        llm.name = setting.model
        config = PipelineConfig(
            llm=llm,
            model_id=None,
            defense=setting.defense,
            system_message_name=None,
            system_message=None,
            tool_output_format=setting.tool_output,
        )
        with _detector(setting.detector):
            self.pipeline = WatchedPipeline.from_config(config)
        self.attack = load_attack(setting.attack, self.suite, self.pipeline) if setting.attack else None

    def play_all(self, task: Task, behaviours: Sequence[str]) -> list[tuple[str, Script, Played]]:
        """One episode of the task by each behaviour."""
        main, injection, injections, environment = self.prepared(task)
        episodes = []
        for behaviour in behaviours:
            script = script_for(behaviour, main, injection, environment)
            episodes.append((behaviour, script, self.play(script, main, injection, injections, environment)))
        return episodes

    def prepared(
        self, task: Task
    ) -> tuple[BaseUserTask | BaseInjectionTask, BaseInjectionTask | None, dict[str, str], TaskEnvironment]:
        """What the user asks for, what the attacker does, what is injected for it, and where."""
        user_task = self.suite.get_user_task_by_id(task.user_task) if task.user_task else None
        injection = self.suite.get_injection_task_by_id(task.injection_task) if task.injection_task else None
        if user_task is None or injection is None:
            alone = user_task or injection
            assert alone is not None
            return alone, None, {}, self.suite.load_and_inject_default_environment({})
        assert self.attack is not None
        injections = self.attack.attack(user_task, injection)
        environment = self.suite.load_and_inject_default_environment(injections)
        return user_task, injection, injections, environment

    def play(
        self,
        script: Policy,
        task: BaseUserTask | BaseInjectionTask,
        injection_task: BaseInjectionTask | None,
        injections: dict[str, str],
        environment: TaskEnvironment,
    ) -> Played:
        """One episode by AgentDojo's `run_task_with_pipeline`.

        Args:
            script: The policy.
            task: What the user asks for.
            injection_task: What the attacker asks for.
            injections: What the attack writes where.
            environment: Made by AgentDojo with these injections; a copy of it is played in.
        """
        self.client.script, self.client.played = script, Played()
        self.pipeline.environment = None
        played = self.client.played
        try:
            played.utility, security = self.suite.run_task_with_pipeline(
                self.pipeline,
                task,
                injection_task,
                injections,
                environment=environment.model_copy(deep=True),
            )
        except Exception as error:  # noqa: BLE001 - whatever AgentDojo fails with is to be compared too
            played.error = f"{type(error).__name__}: {error}"
            return played
        played.attack_success = security if injection_task is not None else None
        if self.attack is not None and self.attack.is_dos_attack and injection_task is not None:
            played.attack_success = not played.utility  # as `benchmark.run_task_with_injection_tasks` has it
        final = self.pipeline.environment
        assert final is not None
        played.state = plain_state(final.model_dump(mode="json"))
        return played


@cache
def upstream(setting: Setting) -> Upstream:
    return Upstream(setting)


def play_all(
    setting: Setting, tasks: Sequence[Task], behaviours: Sequence[str]
) -> list[tuple[tuple[str, str], Script, Played]]:
    """Episodes of some tasks, in a process of their own: see `fast_where_it_does_not_matter`."""
    fast_where_it_does_not_matter()
    side = upstream(setting)
    return [
        ((task.task_id, behaviour), script, played)
        for task in tasks
        for behaviour, script, played in side.play_all(task, behaviours)
    ]


def play_lines(setting: Setting, task: Task, lines: Lines) -> Played:
    """One episode of a task, or of a pair, by these lines."""
    fast_where_it_does_not_matter()
    side = upstream(setting)
    return side.play(lines, *side.prepared(task))


def play_requests(setting: Setting, task: Task, policy: str | Lines) -> tuple[Policy, list[dict[str, Any]]]:
    """AgentDojo's requests in an episode of a task, or of a pair.

    Args:
        setting: What it is played with.
        task: Which task.
        policy: The policy, or the name of a behaviour or of a family.

    Returns:
        The policy, and its requests.
    """
    fast_where_it_does_not_matter()
    side = upstream(setting)
    prepared = side.prepared(task)
    main, injection, _, environment = prepared
    acting = policy_for(policy, main, injection, environment) if isinstance(policy, str) else policy
    side.client.keeps_requests = True
    try:
        played = side.play(Levelled(acting), *prepared)
    finally:
        side.client.keeps_requests = False
    assert played.error is None, f"{task} {policy}: {played.error}"
    return acting, played.requests


@cache
def fast_where_it_does_not_matter() -> None:
    """Saves AgentDojo two labours whose results are the same: parsing in Python, and describing tools anew.

    That libyaml's loader gives an equal environment is tested for every suite, with and without injections
    (`test_agentdojo_is_sped_up_only_where_it_does_not_matter`).
    """
    described: dict[int, tuple[Any, Any]] = {}
    describe = openai_llm._function_to_openai

    def described_once(function: Any) -> Any:
        if id(function) not in described:
            described[id(function)] = function, describe(function)
        return described[id(function)][1]

    openai_llm._function_to_openai = described_once
    task_suite.yaml = SimpleNamespace(  # type: ignore[attr-defined]
        safe_load=lambda text: yaml.load(text, yaml.CSafeLoader), load=yaml.load, dump=yaml.dump
    )


@contextmanager
def _detector(model: str | None) -> Iterator[None]:
    """Has AgentDojo's detector take another model, which its pipeline has no setting for."""
    if model is None:
        yield
        return
    with mock.patch.object(
        agent_pipeline,
        "TransformersBasedPIDetector",
        lambda **options: _make_detector(**{**options, "model_name": model}),
    ):
        yield


@cache
def _make_detector(**options: Any) -> TransformersBasedPIDetector:
    """A detector, whose model is loaded once: it keeps nothing of what it has read."""
    return TransformersBasedPIDetector(**options)


def calls_of(calls: Sequence[FunctionCall]) -> list[tuple[str, dict[str, Any]]]:
    return [(call.function, dict(call.args)) for call in calls]


def policy_for(
    name: str,
    task: BaseUserTask | BaseInjectionTask,
    injection_task: BaseInjectionTask | None,
    environment: TaskEnvironment,
) -> Script | Family:
    """The policy of a behaviour, or of a family, which knows both ground truths."""
    script = script_for(name, task, injection_task, environment)
    if name not in FAMILIES:
        return script
    goal = injection_task.GOAL if injection_task is not None else None
    return Family(name, script.own, script.injected, goal, script.last_words)


def script_for(
    behaviour: str,
    task: BaseUserTask | BaseInjectionTask,
    injection_task: BaseInjectionTask | None,
    environment: TaskEnvironment,
) -> Script:
    """The script of one behaviour, which knows both ground truths."""
    own = environment.model_copy(deep=True)
    if isinstance(task, BaseUserTask):
        own = task.init_environment(own)
    injected = calls_of(injection_task.ground_truth(own)) if injection_task is not None else []
    seed = f"{task.ID}/{injection_task.ID if injection_task else ''}"
    return Script(behaviour, calls_of(task.ground_truth(own)), injected, task.GROUND_TRUTH_OUTPUT, seed)
