"""Task suites: AgentDojo's own by name and version, and a user's own by import path."""

from collections.abc import Iterable
from typing import cast

from agentdojo.task_suite.load_suites import get_suites
from agentdojo.task_suite.task_suite import TaskSuite

from sandbox_images.agentdojo.imports import import_object, is_import_path
from sandbox_images.tool_host.toolset import ToolsetError


def load_suite(version: str, name: str) -> TaskSuite:
    """A suite.

    Args:
        version: Benchmark version that AgentDojo's own suites are taken from.
        name: Its name in that version, or the import path of a `TaskSuite`.

    Raises:
        ToolsetError: There is none.
    """
    if not is_import_path(name):
        registered = get_suites(version)
        if name not in registered:
            raise ToolsetError(f"AgentDojo {version} has no suite {name!r}")
        return registered[name]
    found = import_object(name)
    if not isinstance(found, TaskSuite):
        raise ToolsetError(f"{name} is a {type(found).__name__}; an agentdojo TaskSuite is needed")
    return cast(TaskSuite, found)


def load_suites(version: str, names: Iterable[str]) -> dict[str, TaskSuite]:
    """Suites by what they call themselves, which is how tasks name them.

    Raises:
        ToolsetError: One is not there, or two call themselves the same.
    """
    suites: dict[str, TaskSuite] = {}
    for name in names:
        suite = load_suite(version, name)
        if suite.name in suites:
            raise ToolsetError(f"two of the suites call themselves {suite.name!r}; {name} is one of them")
        suites[suite.name] = suite
    return suites
