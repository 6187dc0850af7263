"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypeVar

class TaskEnvironment(BaseModel): ...
class EmptyEnv(TaskEnvironment): ...

Env = TypeVar("Env", bound=TaskEnvironment, default=Any)

class Depends:
    env_dependency: str | Callable[[BaseModel], BaseModel]
    def __init__(self, env_dependency: str | Callable[[Any], BaseModel]) -> None: ...

class FunctionCall(BaseModel):
    function: str
    args: MutableMapping[str, FunctionCallArgTypes]
    id: str | None = None
    placeholder_args: Mapping[str, FunctionCallArgTypes] | None = None

FunctionCallArgTypes = str | int | float | bool | None | dict[str, Any] | list[Any] | FunctionCall
FunctionReturnType = BaseModel | Sequence[Any] | dict[str, Any] | str | int | float | bool | None

class Function(BaseModel):
    name: str
    description: str
    parameters: type[BaseModel]
    dependencies: dict[str, Depends]
    run: Callable[..., Any]
    full_docstring: str
    return_type: Any | None

def make_function(function: Callable[..., Any]) -> Function: ...

class ToolNotFoundError(Exception): ...

class FunctionsRuntime:
    functions: dict[str, Function]
    def __init__(self, functions: Sequence[Function] = ...) -> None: ...
    def run_function(
        self,
        env: TaskEnvironment | None,
        function: str,
        kwargs: Mapping[str, FunctionCallArgTypes],
        raise_on_error: bool = False,
    ) -> tuple[FunctionReturnType, str | None]: ...
