"""The tools that one rollout's policy is offered, and the calls that it makes of them."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any, Self, cast

from workers.environments.v1.toolsets import ToolServer, ToolServers


class OfferedTools:
    """The tools of all servers of a rollout, under the names that verifiers' program gives them.

    Args:
        servers: Knows the servers.
        urls: Their addresses, by their names.
        timeout: Most seconds that a call may take.
    """

    def __init__(self, servers: ToolServers, urls: dict[str, str], timeout: float) -> None:
        self.schemas: list[dict[str, Any]] = []
        self._servers = servers
        self._urls = urls
        self._timeout = timeout
        self._stack = AsyncExitStack()
        self._tools: dict[str, tuple[ToolServer, str]] = {}

    async def __aenter__(self) -> Self:
        """Asks each server for its tools.

        Raises:
            ValueError: Two tools have one name.
        """
        for name, url in self._urls.items():
            server = self._servers.find(url, self._timeout)
            self._stack.push_async_callback(server.close)
            for tool in await server.list_tools():
                full = f"{name}_{tool['name']}" if name else str(tool["name"])
                if full in self._tools:
                    raise ValueError(f"duplicate tool name {full!r}; give one of the toolsets a TOOL_PREFIX")
                self._tools[full] = server, tool["name"]
                self.schemas.append({"type": "function", "function": {**tool, "name": full}})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def call(self, function: dict[str, Any]) -> tuple[Any, bool]:
        """What a call comes to, in the words of verifiers' program, and whether that is an error.

        Args:
            function: The tool's name, and its arguments as the policy wrote them.

        Raises:
            TimeoutError: It took too long.
        """
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except json.JSONDecodeError as error:
            return f"error: invalid JSON in tool arguments ({error}); resend the call with valid JSON", True
        if not isinstance(arguments, dict):
            kind = type(cast(object, arguments)).__name__
            return f"error: tool arguments must be a JSON object, got {kind}; resend as an object", True
        name = function.get("name")
        if name not in self._tools:
            return f"error: unknown tool {name!r}", True
        server, raw = self._tools[name]
        async with asyncio.timeout(self._timeout):
            return await server.call(raw, cast(dict[str, Any], arguments))
