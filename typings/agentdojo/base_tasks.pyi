"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

import abc
import enum
from collections.abc import Sequence
from typing import Any, Generic

from agentdojo.functions_runtime import FunctionCall, TaskEnvironment
from typing_extensions import TypeVar

class TaskDifficulty(enum.Enum):
    EASY = enum.auto()
    MEDIUM = enum.auto()
    HARD = enum.auto()

Env = TypeVar("Env", bound=TaskEnvironment, default=Any)

class BaseUserTask(abc.ABC, Generic[Env]):
    ID: str
    PROMPT: str
    GROUND_TRUTH_OUTPUT: str = ""
    DIFFICULTY: TaskDifficulty = ...
    @staticmethod
    def init_environment(environment: Any) -> Any: ...
    @abc.abstractmethod
    def ground_truth(self, pre_environment: Env) -> list[FunctionCall]: ...
    @abc.abstractmethod
    def utility(
        self, model_output: str, pre_environment: Env, post_environment: Env, strict: bool = True
    ) -> bool: ...
    def utility_from_traces(
        self, model_output: str, pre_environment: Env, post_environment: Env, traces: Sequence[FunctionCall]
    ) -> bool | None: ...

class BaseInjectionTask(abc.ABC, Generic[Env]):
    ID: str
    GOAL: str
    DIFFICULTY: TaskDifficulty = ...
    GROUND_TRUTH_OUTPUT: str = ""
    @abc.abstractmethod
    def ground_truth(self, pre_environment: Env) -> list[FunctionCall]: ...
    @abc.abstractmethod
    def security(self, model_output: str, pre_environment: Env, post_environment: Env) -> bool: ...
    def security_from_traces(
        self, model_output: str, pre_environment: Env, post_environment: Env, traces: Sequence[FunctionCall]
    ) -> bool | None: ...
