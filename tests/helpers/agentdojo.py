"""AgentDojo as the toolset imports it: beside it, to compare with, AgentDojo as it is by itself.

Import this before anything of `sandbox_images.agentdojo`: the placeholders that stand in for the LLM SDKs
there are taken away again here, for the sake of tests that use the real ones.
"""

import copy
import sys
from typing import Any

from pydantic import BaseModel

from sandbox_images.agentdojo import llm_sdks
from sandbox_images.agentdojo.toolset import AgentDojoToolset

# isort: split
from agentdojo.task_suite.load_suites import get_suites
from agentdojo.task_suite.task_suite import TaskSuite

import sandbox_images.agentdojo.catalog

VERSION = "v1.2.2"
SUITES = ("workspace", "travel", "banking", "slack")

sys.meta_path[:] = [
    finder for finder in sys.meta_path if not isinstance(finder, llm_sdks._PlaceholderModules)
]
for name, module in list(sys.modules.items()):
    spec = getattr(module, "__spec__", None)
    if spec is not None and isinstance(spec.loader, llm_sdks._PlaceholderModules):
        del sys.modules[name]


def suites(version: str = VERSION) -> dict[str, TaskSuite]:
    """AgentDojo's suites, with its own way to build environments whatever a toolset has put in its place."""
    found = {name: copy.copy(suite) for name, suite in get_suites(version).items()}
    for suite in found.values():
        suite.__dict__.pop("load_and_inject_default_environment", None)
    return found


def as_json(environment: BaseModel) -> Any:
    return environment.model_dump(mode="json")


def mutable_parts(value: Any) -> dict[int, Any]:
    """Everything in a value that can be changed in place, by identity."""
    if isinstance(value, BaseModel):
        inside = list(vars(value).values())
    elif isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set):
        inside = list(value)
    else:
        return {}
    found = {} if isinstance(value, tuple) else {id(value): value}
    for part in inside:
        found |= mutable_parts(part)
    return found


__all__ = ["SUITES", "VERSION", "AgentDojoToolset", "as_json", "mutable_parts", "sandbox_images", "suites"]
