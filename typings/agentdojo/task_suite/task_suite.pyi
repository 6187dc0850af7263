"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Self

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import Function, FunctionCall, FunctionsRuntime, TaskEnvironment
from agentdojo.types import ChatMessage, MessageContentBlock
from typing_extensions import TypeVar

BenchmarkVersion = tuple[int, int, int]

def functions_stack_trace_from_messages(messages: Sequence[ChatMessage]) -> list[FunctionCall]: ...
def model_output_from_messages(messages: Sequence[ChatMessage]) -> list[MessageContentBlock] | None: ...
def read_suite_file(suite_name: str, file: str, suite_data_path: Path | None) -> str: ...
def validate_injections(injections: dict[str, str], injection_vector_defaults: dict[str, str]) -> None: ...

Env = TypeVar("Env", bound=TaskEnvironment, default=Any)
_UserTask = TypeVar("_UserTask", bound=BaseUserTask)
_InjectionTask = TypeVar("_InjectionTask", bound=BaseInjectionTask)

class TaskSuite(Generic[Env]):
    name: str
    environment_type: type[Env]
    tools: list[Function]
    data_path: Path | None
    benchmark_version: BenchmarkVersion
    def __init__(
        self,
        name: str,
        environment_type: type[Env],
        tools: list[Function],
        data_path: Path | None = None,
        benchmark_version: BenchmarkVersion = ...,
    ) -> None: ...
    def get_new_version(self, benchmark_version: BenchmarkVersion) -> Self: ...
    def load_and_inject_default_environment(self, injections: dict[str, str]) -> Env: ...
    def get_injection_vector_defaults(self) -> dict[str, str]: ...
    def register_user_task(self, task: type[_UserTask]) -> type[_UserTask]: ...
    def update_user_task(
        self, benchmark_version: BenchmarkVersion
    ) -> Callable[[type[_UserTask]], type[_UserTask]]: ...
    def register_injection_task(self, task: type[_InjectionTask]) -> type[_InjectionTask]: ...
    def update_injection_task(
        self, benchmark_version: BenchmarkVersion, new: bool = False
    ) -> Callable[[type[_InjectionTask]], type[_InjectionTask]]: ...
    @property
    def user_tasks(self) -> dict[str, BaseUserTask[Env]]: ...
    @property
    def injection_tasks(self) -> dict[str, BaseInjectionTask[Env]]: ...
    def get_user_task_by_id(self, task_id: str) -> BaseUserTask[Env]: ...
    def get_injection_task_by_id(self, injection_task_id: str) -> BaseInjectionTask[Env]: ...
    def _check_task_result(
        self,
        task: BaseUserTask[Env] | BaseInjectionTask[Env],
        model_output: list[MessageContentBlock],
        pre_environment: Env,
        task_environment: Env,
        functions_stack_trace: Sequence[FunctionCall],
    ) -> bool: ...
    def run_task_with_pipeline(
        self,
        agent_pipeline: BasePipelineElement,
        user_task: BaseUserTask[Env] | BaseInjectionTask[Env],
        injection_task: BaseInjectionTask[Env] | None,
        injections: dict[str, str],
        runtime_class: type[FunctionsRuntime] = ...,
        environment: Env | None = None,
        verbose: bool = False,
    ) -> tuple[bool, bool]: ...
    def check(
        self, check_injectable: bool = True
    ) -> tuple[bool, tuple[dict[str, tuple[bool, str]], dict[str, bool]]]: ...
