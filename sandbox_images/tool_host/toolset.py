"""What an environment implements to have its tools run in a sandbox: a `Toolset` and its `Session`."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal


class ToolsetError(Exception):
    """A toolset cannot do what the host asks: an unknown task, a payload that breaks its template."""


@dataclass
class ToolResult:
    """What a tool call gave: text for the policy to read."""

    content: str
    error: str | None = None
    """Set when the call failed, in the words the policy is to read; `content` is then ignored."""


@dataclass
class Scores:
    """What an evaluation gave."""

    metrics: dict[str, float | None]
    details: dict[str, Any] = field(default_factory=dict[str, Any])


class Session:
    """One episode's tool resources. It lives in a process of its own and dies with it."""

    tools: list[dict[str, Any]]
    """Tool schemas: `name`, `description`, `parameters` (JSON schema)."""
    tools_id: str | None = None
    """Id of the same, as `Toolset.tool_schemas` takes it, where many sessions have the same tools: the worker
    then asks for them once, and not every session sends them."""
    observation: list[dict[str, Any]]
    """Messages that the episode begins with."""
    state_id: str | None = None
    """Id of the base state, as `Toolset.base_state` takes it; None where there is no state to show."""
    is_awaited: bool = False
    """Whether another request has come already: a call that only waits for something gives way to it."""

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Runs a tool. A tool that fails is a result with an error, not an exception."""
        raise ToolsetError(f"there is no tool {tool}: this toolset has none")

    def state_patch(self) -> list[dict[str, Any]] | None:
        """JSON patch (RFC 6902) from the state at the last time this was called to now.

        The host calls it once before the first tool call, where it starts from the base state, and once
        after each call, when the answer is already on its way: it costs the episode nothing while the
        policy thinks. Of an episode whose patches come to more than 8 MiB, it drops those that are beyond.
        """
        return None

    def state(self) -> Any:
        """The whole state now, as JSON."""
        return None

    def evaluate(self, trace: dict[str, Any]) -> Scores:
        """Scores the episode. `trace` is what the environment says of the conversation."""
        raise ToolsetError("this toolset does not score")

    def oracle(self) -> list[dict[str, Any]]:
        """Ground truth: assistant messages (`content`, `tool_calls` of `name` and `arguments`) in order."""
        raise ToolsetError("this toolset knows no ground truth")


class Toolset(ABC):
    """Tool resources of one environment, loaded once per container and shared by all its sessions."""

    weakest_recycle: ClassVar[Literal["fork", "episode"]] = "fork"
    """The weakest isolation between episodes that this toolset may run at."""
    runs_model_code: ClassVar[bool] = False
    """Whether tools execute what the model writes. Where sessions have users of their own, such a session
    gets two, so that what it starts can't end it: see `process.become_user`."""

    def preload(self) -> None:
        """Imports what is heavy and warms caches. Runs once, before any session is forked."""
        return None

    def prepare(self, task: dict[str, Any]) -> Any:
        """Work on a task that its sessions can share. Runs in the host process: keep it short.

        The result is handed to `open` in the forked child, by memory: it may be any object.
        """
        return None

    def tool_schemas(self, tools_id: str) -> list[dict[str, Any]]:
        """The tool schemas that `tools_id` names."""
        raise ToolsetError(f"there are no tools {tools_id}")

    def base_state(self, state_id: str) -> Any:
        """The state that `state_id` names, as JSON."""
        raise ToolsetError(f"there is no base state {state_id}")

    @abstractmethod
    def open(self, task: dict[str, Any], prepared: Any, scratch: Path) -> Session:
        """Sets up a session. Runs in the session's own process, with `scratch` as its working folder."""


def load_toolset(path: str, config: dict[str, Any]) -> Toolset:
    """The toolset class at an import path, `package.module:Class`, called with `config`.

    Raises:
        ToolsetError: The path does not lead to a toolset class.
    """
    module_name, _, class_name = path.partition(":")
    toolset_class = getattr(importlib.import_module(module_name), class_name, None)
    if not (isinstance(toolset_class, type) and issubclass(toolset_class, Toolset)):
        raise ToolsetError(f"{path} is no toolset class")
    return toolset_class(**config)
