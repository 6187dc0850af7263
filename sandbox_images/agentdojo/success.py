"""When an injection task's own check comes true in an episode."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import FunctionCall, TaskEnvironment
from agentdojo.types import text_content_block_from_string

Task = BaseUserTask | BaseInjectionTask
Check = Callable[[Task, list[Any], TaskEnvironment, TaskEnvironment, Sequence[FunctionCall]], bool]
"""AgentDojo's own check of a task: the task, the last words, the environment before and after, the calls."""


def is_true(
    check: Check,
    task: Task,
    before: TaskEnvironment,
    environment: TaskEnvironment,
    calls: Sequence[FunctionCall],
    words: str | None = None,
) -> bool:
    """Asks a check, which may change `environment`: those do that list unread mail.

    A check that raises, since it wants the whole conversation, has its say at the end alone.
    """
    output = [] if words is None else [text_content_block_from_string(words)]
    with suppress(Exception):
        return bool(check(task, output, before.model_copy(deep=True), environment, list(calls)))
    return False


class SuccessWatch:
    """Asks an injection task's own check after each call that may have made it true.

    An attack that succeeded and was undone later is seen too, and no tool has to be run again.

    Args:
        check: AgentDojo's check.
        injection_task: The attacker's task.
        before: The environment that the episode began with.
    """

    def __init__(self, check: Check, injection_task: Task, before: TaskEnvironment) -> None:
        self._check = check
        self._task = injection_task
        self._before = before
        self._reads_environment_alone = (
            isinstance(injection_task, BaseInjectionTask)
            and type(injection_task).__module__.startswith("agentdojo.")
            and type(injection_task).security_from_traces is BaseInjectionTask.security_from_traces
        )
        self.succeeded_at: int | None = None
        """Place of the call after which the check first came true."""

    def look(self, environment: TaskEnvironment, calls: Sequence[FunctionCall], is_changed: bool) -> None:
        """Looks at the environment after the last of these calls.

        Args:
            environment: The episode's.
            calls: The calls that were run so far.
            is_changed: Whether the last one changed the environment.
        """
        if self.succeeded_at is not None or not calls:
            return
        if self._reads_environment_alone and not is_changed:
            return
        if is_true(self._check, self._task, self._before, environment.model_copy(deep=True), calls):
            self.succeeded_at = len(calls) - 1
