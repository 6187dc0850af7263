"""AgentDojo's episodes under attack, with nothing around them, looked through for the injection."""

from contextlib import suppress
from functools import cache
from typing import Any

from sandbox_images.agentdojo.environments import EnvironmentCache
from sandbox_images.agentdojo.injected import InjectedCalls, InjectionSearch
from sandbox_images.agentdojo.success import SuccessWatch
from tests.helpers.agentdojo import VERSION, suites

# isort: split
from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime, TaskEnvironment
from agentdojo.types import text_content_block_from_string

Made = tuple[str, dict[str, Any]]


@cache
def environments(suite_name: str, version: str = VERSION) -> EnvironmentCache:
    return EnvironmentCache(suites(version)[suite_name])


def search(suite_name: str, user_task: str, injection_task: str, version: str = VERSION) -> InjectionSearch:
    suite = suites(version)[suite_name]
    task = suite.user_tasks[user_task]

    def fresh() -> TaskEnvironment:
        return task.init_environment(environments(suite_name, version).fresh({}))

    return InjectionSearch(
        check=suite._check_task_result,
        runtime=FunctionsRuntime(suite.tools),
        before=fresh(),
        fresh=fresh,
        task=task,
        injection_task=suite.injection_tasks[injection_task],
    )


def played_in(
    looked_for: InjectionSearch, *calls: Made, words: str = ""
) -> tuple[InjectedCalls, bool, list[bool]]:
    """Runs the calls as an episode does.

    Returns what was found, whether the attack succeeded, and whether its check was true after each call.
    """
    environment, before = looked_for.fresh(), looked_for.fresh()
    watch = SuccessWatch(looked_for.check, looked_for.injection_task, looked_for.fresh())
    made: list[FunctionCall] = []
    completed: list[int] = []
    changed: list[int] = []
    true_after: list[bool] = []
    for place, (name, args) in enumerate(calls):
        made.append(FunctionCall(function=name, args=dict(args)))
        earlier = environment.model_copy(deep=True)
        if looked_for.runtime.run_function(environment, name, made[-1].args)[1] is None:
            completed.append(place)
        if environment != earlier:
            changed.append(place)
        watch.look(environment, made, environment != earlier)
        true_after.append(_is_true(looked_for, before, environment, made))
    success = _is_true(looked_for, before, environment, made, words)
    return looked_for.find(made, completed, changed, watch.succeeded_at, success), success, true_after


def _is_true(
    looked_for: InjectionSearch,
    before: TaskEnvironment,
    environment: TaskEnvironment,
    made: list[FunctionCall],
    words: str = "",
) -> bool:
    """Asks the injection task's check. Some raise, which fails an episode."""
    copies = before.model_copy(deep=True), environment.model_copy(deep=True)
    with suppress(Exception):
        output = [text_content_block_from_string(words)]
        return looked_for.check(looked_for.injection_task, output, *copies, made)
    return False
