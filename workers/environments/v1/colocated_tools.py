"""Toolsets that run beside the program that calls them, in its container, as verifiers has them there."""

from contextlib import AbstractAsyncContextManager
from functools import wraps
from typing import Any

from verifiers.v1.errors import ToolsetError
from verifiers.v1.mcp import launch

_launch: Any = launch


def adapt_launch() -> None:
    """Has a toolset that names the Python of its image be started by that: there is no network to install by.

    Safe to call twice.
    """
    if getattr(_launch, "is_kumites", False):
        return
    install = _launch._install_in_sandbox

    @wraps(install)
    async def find_python(toolset: Any, runtime: Any) -> str:
        kind: Any = type(toolset)  # pyright: ignore[reportUnknownVariableType]
        python = getattr(kind, "RUNTIME_PYTHON", None)
        if python is not None:
            return str(python)
        try:
            return await install(toolset, runtime)
        except ToolsetError as error:
            raise ToolsetError(
                f"toolset {toolset.server_name!r} is `colocated`, and its container, which has no network, "
                "could not be given what it needs: take an image that has it, and name that image's Python "
                "by the class attribute RUNTIME_PYTHON; or name the package index in sandbox.allow: "
                f"{error}"
            ) from error

    _launch._install_in_sandbox = find_python
    _launch.is_kumites = True


def serve_colocated(
    toolset: Any, runtime: Any, state_base: str, state_secret: str
) -> AbstractAsyncContextManager[str]:
    """Starts a toolset in a container, which ends it: its address there.

    Args:
        toolset: verifiers' toolset.
        runtime: The container.
        state_base: verifiers' address of the rollout's state and task.
        state_secret: What opens it.

    Raises:
        ToolsetError: It does not come up; with the end of its log.
    """
    return _launch.serve(toolset, runtime, state_secret=state_secret, state_base=state_base)
