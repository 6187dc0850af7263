"""A toolset that is served elsewhere, asked over HTTP by verifiers' own client."""

import importlib
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from workers.environments.v1.tool_results import to_chat_content


class RemoteTools:
    """An MCP server at a URL.

    Args:
        url: Where it is.
        timeout: Most seconds that a call may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._spec = {"url": url, "timeout": timeout}
        self._connection: Any = None

    async def list_tools(self) -> list[dict[str, Any]]:
        """See `ToolServer.list_tools`."""
        listed = await self._ask(lambda client: client.list_tools())
        return [
            {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.inputSchema if hasattr(tool, "inputSchema") else tool.input_schema,
            }
            for tool in listed.tools
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """See `ToolServer.call`."""
        result = await self._ask(lambda client: client.call_tool(name, arguments))
        is_error: bool = getattr(result, "is_error", getattr(result, "isError", False))
        return to_chat_content(result.content), is_error

    async def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            await self._connection.aclose()

    async def _ask(self, operation: Callable[[Any], Awaitable[Any]]) -> Any:
        """Asks as often as verifiers' chat program does."""
        if find_spec("verifiers.v1.harnesses.utils") is not None:
            if self._connection is None:
                client: Any = importlib.import_module("verifiers.v1.harnesses.utils.mcp")
                self._connection = client.MCPConnection(self._spec)
            return await self._connection.run(operation)
        program: Any = importlib.import_module("verifiers.v1.harnesses.null.program")

        async def ask() -> Any:  # before 0.4.0, each question has a connection of its own
            async with program.mcp_session(self._spec) as session:
                return await operation(session)

        return await program.with_retry(ask)
