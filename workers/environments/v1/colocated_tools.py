"""Toolsets that verifiers starts in a container, most often that of the program which calls them."""

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from functools import wraps
from typing import Any

from verifiers.v1.errors import SandboxError, ToolsetError
from verifiers.v1.mcp import launch

from workers.environments.v1.container import ContainerRuntime

_launch: Any = launch
_SandboxError: Any = SandboxError
_STARTS_WITHIN = 180.0
"""Seconds in which a server must have started, as with verifiers."""
_LOOK = 0.1


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
            runtime.server_python = await install(toolset, runtime)
            return str(runtime.server_python)
        except ToolsetError as error:
            raise ToolsetError(
                f"toolset {toolset.server_name!r}: its container, which has no network, could not be given "
                "what it needs: take an image that has it, and name that image's Python "
                "by the class attribute RUNTIME_PYTHON; or name the package index in sandbox.allow: "
                f"{error}"
            ) from error

    _launch._install_in_sandbox = find_python
    _launch._read_back_port = _read_port
    _launch.is_kumites = True


async def _read_port(runtime: ContainerRuntime, path: str) -> int:
    """The port that the server which was started last has written to a file, as soon as it is there.

    Raises:
        ToolsetError: It has ended, or says nothing.
    """
    server = runtime.background
    assert server is not None
    try:
        async with asyncio.timeout(_STARTS_WITHIN):
            while True:
                has_ended = server.ended.done()
                with suppress(_SandboxError):
                    port = (await runtime.read(path)).decode().strip()
                    if port.isdigit():
                        return int(port)
                if has_ended:
                    raise ToolsetError(f"the server has ended by itself, with status {server.ended.result()}")
                await asyncio.sleep(_LOOK)
    except TimeoutError:
        raise ToolsetError(f"the server did not report its port at {path} in its container") from None


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
