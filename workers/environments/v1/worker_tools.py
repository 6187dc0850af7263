"""A toolset that runs in the worker, as the rollout that calls it sees it."""

import importlib
import inspect
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec
from typing import Any, cast

from pydantic import ValidationError

from workers.environments.v1.tool_endpoints import WorkerEndpoint
from workers.environments.v1.tool_results import to_chat_content

_called: ContextVar[Any] = ContextVar("kumite_called_toolset")
"""The toolset whose tool is called: toolsets of one kind share their tools' schemas."""
_calling: ContextVar[Any] = ContextVar("kumite_calling_session")
"""verifiers' session of the rollout that calls a tool, whose state the tool sees."""


class WorkerTools:
    """A toolset that runs in this process.

    Args:
        toolset: The toolset.
        server: The MCP server that has its tools.
        session: verifiers' session of the rollout that calls it.
    """

    def __init__(self, toolset: Any, server: Any, session: Any) -> None:
        self._toolset = toolset
        self._server = server
        self._session = session

    async def list_tools(self) -> list[dict[str, Any]]:
        """See `ToolServer.list_tools` of `toolsets`."""
        tools: list[Any] = await self._server.list_tools()
        return [
            {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.inputSchema if hasattr(tool, "inputSchema") else tool.input_schema,
            }
            for tool in tools
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """See `ToolServer.call`; what a tool raises is its result, as MCP has it."""
        try:
            result = await self._in_call(lambda: self._server.call_tool(name, arguments))
        except Exception as error:  # noqa: BLE001 - any error of a tool's is what the policy reads
            return str(error), True
        if isinstance(result, tuple):  # MCP 1: what the policy reads, and the same with its structure
            result = cast(tuple[Any, Any], result)[0]
        is_error: bool = getattr(result, "is_error", getattr(result, "isError", False))
        return to_chat_content(getattr(result, "content", result)), is_error

    async def close(self) -> None:
        """See `ToolServer.close`: it lasts as long as its rollout, or the worker."""

    def endpoint(self) -> WorkerEndpoint:
        """The same for a program in a container."""
        return WorkerEndpoint(self._server, self._in_call)

    async def _in_call(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Does something as a call of the rollout's; what it starts keeps that."""
        calling, called = _calling.set(self._session), _called.set(self._toolset)
        try:
            return await work()
        finally:
            _called.reset(called)
            _calling.reset(calling)


def make_server(toolset: Any) -> Any:
    """The MCP server that has a toolset's tools, of MCP 1 or 2."""
    modern = find_spec("mcp.server.mcpserver") is not None  # MCP 2
    module: Any = importlib.import_module(f"mcp.server.{'mcpserver' if modern else 'fastmcp'}")
    server: Any = (module.MCPServer if modern else module.FastMCP)(
        toolset.server_name or type(toolset).__name__, log_level="WARNING"
    )
    toolset.register(server)
    return server


def call_on_current(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A tool that is called on the toolset of the rollout that calls it."""

    @wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        toolset: Any = _called.get()
        own: Any = toolset._with_state(getattr(toolset, fn.__name__))
        return await own(*args, **kwargs)

    call.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    return call


def share_state(toolset: Any) -> tuple[Callable[[], Any], Callable[[bytes], Any]]:
    """How a toolset reads the calling rollout's state before a call, and how it writes it after."""
    adapter = toolset._state_adapter

    async def pull() -> Any:
        session = _calling.get()
        return adapter.validate_json(session.state_adapter.dump_json(session.trace.state))

    async def push(before: bytes) -> None:
        session, after = _calling.get(), adapter.dump_json(toolset.state)
        if after == before:
            return
        if session.released:
            raise RuntimeError("the rollout is over")
        try:
            session.trace.state = session.state_adapter.validate_json(after)
        except ValidationError as error:
            raise ValueError(f"invalid state for {type(session.trace.state).__name__}: {error}") from error

    return pull, push
