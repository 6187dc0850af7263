"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

from collections.abc import Sequence
from typing import Any

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import FunctionsRuntime
from agentdojo.types import ChatMessage

class GroundTruthPipeline(BasePipelineElement):
    def __init__(self, task: BaseUserTask | BaseInjectionTask | None) -> None: ...
    def query(
        self,
        query: str,
        runtime: FunctionsRuntime,
        env: Any = ...,
        messages: Sequence[ChatMessage] = ...,
        extra_args: dict[str, Any] = ...,
    ) -> tuple[str, FunctionsRuntime, Any, Sequence[ChatMessage], dict[str, Any]]: ...
