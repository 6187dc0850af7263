"""What a sandbox answers, checked: it is untrusted."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class FromSandbox(BaseModel):
    """Base of what a sandbox sends: nothing that it does not name, and nothing of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Hello(FromSandbox):
    """A tool host's first frame."""

    protocol: Literal[1]
    preload_seconds: float
    weakest_recycle: Literal["fork", "episode"]
    runs_model_code: bool


class ToolSchema(FromSandbox):
    name: str
    description: str
    parameters: dict[str, Any]


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]


class OpenedFrame(FromSandbox):
    """The answer to `open`; tools that many sessions have are but named."""

    tools: list[ToolSchema] | None
    tools_id: _Name | None
    observation: list[dict[str, Any]]
    state_id: _Name | None


@dataclass(frozen=True)
class Opened:
    """What a session begins with."""

    tools: list[ToolSchema]
    tools_id: str | None
    """Set where other sessions have the same tools."""
    observation: list[dict[str, Any]]
    state_id: str | None


class ToolResult(FromSandbox):
    """What a tool call gave."""

    content: str
    error: str | None

    @property
    def text(self) -> str:
        """What the policy reads."""
        return self.content if self.error is None else self.error


class Scores(FromSandbox):
    """What an evaluation gave."""

    metrics: dict[str, float | None]
    details: dict[str, Any]
    patches: list[list[dict[str, Any]] | None]
    """JSON patches: from the base state to the initial one, then one per tool call."""
