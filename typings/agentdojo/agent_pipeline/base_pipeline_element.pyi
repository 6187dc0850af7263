"""What Kumite uses of the module, with the type arguments that AgentDojo 0.1.35 leaves out."""

import abc
from collections.abc import Sequence
from typing import Any

from agentdojo.functions_runtime import FunctionsRuntime
from agentdojo.types import ChatMessage

class BasePipelineElement(abc.ABC):
    name: str | None = None
    @abc.abstractmethod
    def query(
        self,
        query: str,
        runtime: FunctionsRuntime,
        env: Any = ...,
        messages: Sequence[ChatMessage] = ...,
        extra_args: dict[str, Any] = ...,
    ) -> tuple[str, FunctionsRuntime, Any, Sequence[ChatMessage], dict[str, Any]]: ...
