"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

from collections.abc import Callable, Sequence
from typing import Any

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.functions_runtime import FunctionReturnType, FunctionsRuntime
from agentdojo.types import ChatMessage

def tool_result_to_str(tool_result: FunctionReturnType, dump_fn: Callable[[Any], str] = ...) -> str: ...

class ToolsExecutor(BasePipelineElement):
    output_formatter: Callable[[FunctionReturnType], str]
    def __init__(self, tool_output_formatter: Callable[[FunctionReturnType], str] = ...) -> None: ...
    def query(
        self,
        query: str,
        runtime: FunctionsRuntime,
        env: Any = ...,
        messages: Sequence[ChatMessage] = ...,
        extra_args: dict[str, Any] = ...,
    ) -> tuple[str, FunctionsRuntime, Any, Sequence[ChatMessage], dict[str, Any]]: ...

class ToolsExecutionLoop(BasePipelineElement):
    elements: Sequence[BasePipelineElement]
    max_iters: int
    def __init__(self, elements: Sequence[BasePipelineElement], max_iters: int = 15) -> None: ...
    def query(
        self,
        query: str,
        runtime: FunctionsRuntime,
        env: Any = ...,
        messages: Sequence[ChatMessage] = ...,
        extra_args: dict[str, Any] = ...,
    ) -> tuple[str, FunctionsRuntime, Any, Sequence[ChatMessage], dict[str, Any]]: ...
