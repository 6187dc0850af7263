"""AgentDojo at its edges. These run in its own process: nothing of it is imported before they do."""

from typing import Any


def arguments_in_the_next_prompt(arguments: dict[str, Any]) -> dict[str, Any]:
    """What AgentDojo's executor makes of the arguments in the conversation."""
    from agentdojo.agent_pipeline.tool_execution import ToolsExecutor
    from agentdojo.functions_runtime import FunctionCall, FunctionsRuntime
    from agentdojo.task_suite.load_suites import get_suite

    suite = get_suite("v1.2.2", "travel")
    made = FunctionCall(function="get_rating_reviews_for_hotels", args=arguments, id="1")
    ToolsExecutor().query(
        "",
        FunctionsRuntime(suite.tools),
        suite.load_and_inject_default_environment({}),
        [{"role": "assistant", "content": None, "tool_calls": [made]}],
    )
    return dict(made.args)


def scores_of_an_api_error() -> tuple[bool, bool]:
    """Utility and security that AgentDojo's benchmark gives a prompt that is too long."""
    import httpx
    from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
    from agentdojo.attacks import load_attack
    from agentdojo.benchmark import run_task_with_injection_tasks
    from agentdojo.logging import OutputLogger
    from agentdojo.task_suite.load_suites import get_suite
    from openai import BadRequestError

    class Refusing(BasePipelineElement):
        name = "local"

        def query(self, *_: Any, **__: Any) -> Any:
            # openai may be made for a copy of httpx, whose responses are the same.
            response: Any = httpx.Response(400, request=httpx.Request("POST", "http://nowhere"))
            raise BadRequestError("too long", response=response, body={"code": "context_length_exceeded"})

    suite = get_suite("v1.2.2", "slack")
    attack = load_attack("direct", suite, Refusing())
    task = suite.get_user_task_by_id("user_task_0")
    with OutputLogger(None):
        utility, security = run_task_with_injection_tasks(
            suite, Refusing(), task, attack, None, True, ["injection_task_1"]
        )
    pair = ("user_task_0", "injection_task_1")
    return utility[pair], security[pair]


def error_of_a_payload(payload: str) -> str:
    from agentdojo.task_suite.load_suites import get_suite

    suite = get_suite("v1.2.2", "banking")
    try:
        suite.load_and_inject_default_environment({"injection_bill_text": payload})
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return type(error).__name__
    return "none"


def tasks_of(version: str) -> dict[str, list[str]]:
    """The classes behind a version's tasks."""
    from agentdojo.task_suite.load_suites import get_suites

    return {
        name: [
            f"{type(task).__module__}.{type(task).__qualname__}"
            for task in [*suite.user_tasks.values(), *suite.injection_tasks.values()]
        ]
        for name, suite in get_suites(version).items()
    }


def injection_tasks_that_their_ground_truth_solves(version: str) -> dict[str, bool]:
    """AgentDojo's own check of workspace's injection tasks, after their own ground truth."""
    from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
    from agentdojo.task_suite.load_suites import get_suite

    suite = get_suite(version, "workspace")
    user_task = suite.get_user_task_by_id("user_task_0")
    return {
        name: suite.run_task_with_pipeline(GroundTruthPipeline(task), user_task, task, {})[1]
        for name, task in suite.injection_tasks.items()
    }
