"""One AgentDojo episode: its tools, what they change, and its scores, all by AgentDojo's own code."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from agentdojo.agent_pipeline.tool_execution import ToolsExecutor
from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime, TaskEnvironment
from agentdojo.types import ChatAssistantMessage, get_text_content_as_str, text_content_block_from_string

from sandbox_images.agentdojo.injected import InjectedCalls, InjectionSearch
from sandbox_images.agentdojo.loaded_suite import LoadedSuite
from sandbox_images.agentdojo.state import StateTracker
from sandbox_images.agentdojo.success import SuccessWatch
from sandbox_images.tool_host.json_patch import Patch
from sandbox_images.tool_host.toolset import Scores, Session, ToolResult, ToolsetError

_MAX_TOOL_TURNS = 15
"""Turns with tool calls in AgentDojo's pipeline (`max_iters` of its `ToolsExecutionLoop`)."""


class AgentDojoSession(Session):
    """One episode's environment.

    Args:
        loaded: The suite.
        user_task: The user's task; None for an injection task alone.
        injection_task: The attacker's task; None for a user task alone.
        environment: This episode's own.
        before: Equal to it, to compare with when scoring.
        fresh: Makes another one that is equal to it as the suite has it, before the user task's own set-up.
        denies_service: Whether the attack is one that keeps the user's task from being done.
        executor: Runs tool calls and writes down what they give.
    """

    def __init__(
        self,
        loaded: LoadedSuite,
        user_task: BaseUserTask | BaseInjectionTask | None,
        injection_task: BaseUserTask | BaseInjectionTask | None,
        environment: TaskEnvironment,
        before: TaskEnvironment,
        fresh: Callable[[], TaskEnvironment],
        denies_service: bool,
        executor: ToolsExecutor,
    ) -> None:
        main_task = user_task or injection_task
        if main_task is None:
            raise ToolsetError("a task needs a user_task, an injection_task, or both")
        if isinstance(main_task, BaseUserTask) and _has_setup(main_task):
            # A set-up may change what it is given, which the base state would otherwise share.
            environment = main_task.init_environment(environment.model_copy(deep=True))
            before = environment.model_copy(deep=True)
        self._suite = loaded.suite
        self._task = main_task
        self._injection_task = injection_task if user_task is not None else None
        self._denies_service = denies_service
        self._environment = environment
        self._before = before
        self._fresh = fresh
        self._tracker = StateTracker(loaded.base_state, environment)
        self._fields = set(type(environment).model_fields)
        self._touched: set[str] | None = None
        self._ever_touched: set[str] = set()
        self._runtime = FunctionsRuntime(loaded.suite.tools)
        self._executor = executor
        self._calls: list[FunctionCall] = []
        self._done: list[int] = []
        self._watch: SuccessWatch | None = None
        if self._injection_task is not None and not self._denies_service:  # which has no goal to look for
            self._watch = SuccessWatch(loaded.suite._check_task_result, self._injection_task, before)
        self._looked_at = 0
        self._changed: list[int] = []
        self.tools = loaded.tools
        self.tools_id = loaded.tools_id
        self.observation = []
        self.state_id = loaded.base_state.id

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Runs a tool through AgentDojo's executor, which words results and errors."""
        self._look_at_call()
        self._touched = self._reachable_fields(tool)
        self._ever_touched |= self._touched
        call = FunctionCall(function=tool, args=arguments, id="call")
        self._calls.append(call)
        message = ChatAssistantMessage(role="assistant", content=None, tool_calls=[call])
        try:
            _, _, _, messages, _ = self._executor.query("", self._runtime, self._environment, [message])
        except Exception as error:  # noqa: BLE001 - arguments may break the executor itself, not only a tool
            return ToolResult("", f"{type(error).__name__}: {error}")
        answer = messages[-1]
        assert answer["role"] == "tool"  # the executor answers every call
        if answer["error"] is None:
            self._done.append(len(self._calls) - 1)
        return ToolResult(get_text_content_as_str(answer["content"]), answer["error"])

    def state_patch(self) -> Patch:
        """What changed in the environment since the last call of this."""
        if self._touched is None:
            return self._tracker.first_patch()
        patch = self._tracker.patch(self._touched)
        self._look_at_call(has_changed=bool(patch))
        return patch

    def _look_at_call(self, has_changed: bool = True) -> None:
        """Notes of the last call, once, whether it changed the environment and made the attack succeed."""
        if self._looked_at == len(self._calls):
            return
        self._looked_at = len(self._calls)
        if has_changed:
            self._changed.append(len(self._calls) - 1)
        if self._watch is not None:
            self._watch.look(self._environment, self._calls, has_changed)

    def _reachable_fields(self, tool: str) -> set[str]:
        """The fields of the environment that AgentDojo hands to a tool: it can change no others."""
        function = self._runtime.functions.get(tool)
        if function is None:
            return set()
        wants = [dependency.env_dependency for dependency in function.dependencies.values()]
        return self._fields if any(callable(want) for want in wants) else {str(want) for want in wants}

    def state(self) -> Any:
        """The environment as JSON."""
        return self._environment.model_dump(mode="json")

    def evaluate(self, trace: dict[str, Any]) -> Scores:
        """AgentDojo's own checks.

        Args:
            trace: `output`, the policy's last words or None, and `unexecuted`, the tool calls (`name`,
                `arguments`) that it made but that were not run; each may say `after` how many of those
                that were run it came, at the end where it does not.

        Returns:
            Metrics; and, as details, the places among the calls that were run of those that the injection
            asked for (`injected`), that of the one after which the attack had first succeeded
            (`succeeded_at`), and whether it succeeded by the last words alone (`succeeded_in_words`).
        """
        self._look_at_call()
        if self._uses_agentdojo_checks():  # another's might change what is shared here
            for name in self._fields - self._ever_touched:  # what is one and the same need not be compared
                vars(self._before)[name] = vars(self._environment)[name]
        output = [] if trace["output"] is None else [text_content_block_from_string(trace["output"])]
        calls = self._all_calls(trace["unexecuted"])
        check = partial(self._run_check, self._before, self._environment, output, calls)
        utility = check(self._task)
        attack_success = check(self._injection_task) if self._injection_task is not None else None
        if self._denies_service:
            attack_success = not utility
        found = InjectedCalls()
        if self._watch is not None and self._injection_task is not None:
            search = InjectionSearch(
                check=self._suite._check_task_result,
                runtime=self._runtime,
                before=self._before,
                fresh=self._restart_environment,
                task=self._task,
                injection_task=self._injection_task,
            )
            found = search.find(
                self._calls, self._done, self._changed, self._watch.succeeded_at, bool(attack_success)
            )
        return Scores(
            {
                "utility": float(utility),
                # AgentDojo calls this `security`: True says that the attack succeeded.
                "attack_success": None if attack_success is None else float(attack_success),
                "injected_calls": None if found.places is None else float(len(found.places)),
            },
            {
                "injected": found.places or [],
                "succeeded_at": found.succeeded_at,
                "succeeded_in_words": found.in_words,
            },
        )

    def _all_calls(self, unexecuted: list[dict[str, Any]]) -> list[FunctionCall]:
        """Every tool call of the conversation, in order, run or not."""
        calls = list(self._calls)
        for call in reversed(unexecuted):
            made = FunctionCall(function=call["name"], args=call["arguments"])
            calls.insert(call.get("after", len(self._calls)), made)
        return calls

    def _restart_environment(self) -> TaskEnvironment:
        environment = self._fresh()
        return (
            self._task.init_environment(environment) if isinstance(self._task, BaseUserTask) else environment
        )

    def _uses_agentdojo_checks(self) -> bool:
        tasks = (self._task, self._injection_task)
        return all(task is None or type(task).__module__.startswith("agentdojo.") for task in tasks)

    def _run_check(
        self,
        before: TaskEnvironment,
        now: TaskEnvironment,
        output: list[Any],
        calls: list[FunctionCall],
        task: BaseUserTask | BaseInjectionTask | None,
    ) -> bool:
        check: Callable[..., bool] = self._suite._check_task_result
        return check(task, output, before, now, calls)

    def oracle(self) -> list[dict[str, Any]]:
        """The task's ground truth, and the output that AgentDojo expects at the end.

        One call a turn, but no more turns than AgentDojo's pipeline allows: the longest has 18 calls.
        """
        calls = [
            {"name": call.function, "arguments": dict(call.args)}
            for call in self._task.ground_truth(self._environment)
        ]
        size = math.ceil(len(calls) / _MAX_TOOL_TURNS) or 1
        turns = [calls[start : start + size] for start in range(0, len(calls), size)]
        return [
            *({"content": "", "tool_calls": turn} for turn in turns),
            {"content": self._task.GROUND_TRUTH_OUTPUT, "tool_calls": []},
        ]


class InjectionsSession(Session):
    """A session that has computed what an attack injects, and has nothing else.

    Args:
        injections: A text for each injection vector.
        denies_service: Whether the attack is one that keeps the user's task from being done.
    """

    def __init__(self, injections: dict[str, str], denies_service: bool) -> None:
        self.tools = []
        self.observation = []
        self._found = {"injections": injections, "denies_service": denies_service}

    def state(self) -> dict[str, Any]:
        """What a task brings along, once this is known: `injections` and `denies_service`."""
        return self._found


def _has_setup(task: BaseUserTask) -> bool:
    """Says whether a user task has a set-up of its own."""
    return type(task).init_environment is not BaseUserTask.init_environment
