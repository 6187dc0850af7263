"""Toolsets that run in a container of their own, which nothing can connect to.

verifiers' own server runs there, as it does beside a program. A request to it is carried over the one pipe by
a small program in the same container: it takes the request from its input, and prints the answer.
"""

import asyncio
import http.client
import io
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web
from verifiers.v1.errors import SandboxError, ToolsetError
from verifiers.v1.mcp import launch
from verifiers.v1.runtimes.docker import DockerConfig

from workers.cancellation import cancel_and_wait
from workers.environments.v1.container import ContainerRuntime
from workers.environments.v1.play import current_play
from workers.environments.v1.runtime_config import read_runtime
from workers.environments.v1.tool_endpoints import MOST_SILENCE, select_headers
from workers.environments.v1.tool_results import to_chat_content

_launch: Any = launch
_SandboxError: Any = SandboxError
_CARRIER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
    server.sendall(sys.stdin.buffer.read())
    while piece := server.recv(65536):
        sys.stdout.buffer.write(piece)
"""
_HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


@asynccontextmanager
async def serve_contained(toolset: Any, state_base: str, state_secret: str) -> AsyncGenerator["Server"]:
    """Starts a toolset in a container of its own, which ends with it.

    Args:
        toolset: verifiers' toolset.
        state_base: verifiers' address of the rollout's state and task.
        state_secret: What opens it.

    Raises:
        ToolsetError: It does not come up; with the end of its log.
    """
    name: str = toolset.server_name
    asked = {"runtime": toolset.config.runtime.model_dump(mode="json", exclude_unset=True)}
    asked["runtime"]["type"] = toolset.config.runtime.type
    config = DockerConfig.model_validate(read_runtime(asked, f"the config of toolset {name!r}"))
    runtime = ContainerRuntime(config, current_play(), f"tools-{name}")
    try:
        await runtime.start()
        port: int = await _launch.serve_in_runtime(
            toolset,
            runtime,
            exposed=False,
            state_url=f"{runtime.host_url(state_base.rstrip('/'))}/state",
            state_secret=state_secret,
        )
        python: str = runtime.server_python or cast(Any, type(toolset)).RUNTIME_PYTHON
        yield Server(runtime, python, port)
    finally:
        await runtime.stop()


class Server:
    """An MCP server in a container.

    Args:
        runtime: The container.
        python: A Python there.
        port: The server's, on the container's own loopback.
    """

    def __init__(self, runtime: ContainerRuntime, python: str, port: int) -> None:
        self._runtime = runtime
        self._argv = [python, "-I", "-S", "-c", _CARRIER, str(port)]
        self._port = port

    async def ask(self, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Puts one request: status, headers and body of the answer.

        Raises:
            ToolsetError: There is none.
        """
        given = {
            **headers,
            "Host": f"127.0.0.1:{self._port}",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        try:
            async with asyncio.timeout(MOST_SILENCE):
                told = await self._runtime.pipe(
                    self._argv, f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
                )
            return _read_answer(told)
        except (_SandboxError, TimeoutError, http.client.HTTPException) as error:
            raise ToolsetError(
                f"the toolset's server in its container does not answer: {type(error).__name__}: {error}"
            ) from error

    async def explain_failed_call(self, error: ToolsetError) -> str:
        """What the policy is told where a call has failed.

        A tool may run what the policy wrote, which may have ended the server: that is no failure of the
        episode's, or a policy could have its episode played again.

        Raises:
            ToolsetError: The container is lost.
        """
        if not await self._runtime.alive():
            raise error
        return str(error)


class ContainedTools:
    """A toolset in a container, as the loop calls it: see `ToolServer`.

    Args:
        server: Its server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    async def list_tools(self) -> list[dict[str, Any]]:
        """See `ToolServer.list_tools`."""
        listed = await self._request("tools/list", {})
        return [
            {
                "name": tool["name"],
                "description": tool.get("description") or "",
                "parameters": tool["inputSchema"],
            }
            for tool in listed["tools"]
        ]

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bool]:
        """See `ToolServer.call`."""
        try:
            result = await self._request("tools/call", {"name": name, "arguments": arguments})
        except ToolsetError as error:
            return await self._server.explain_failed_call(error), True
        blocks = [SimpleNamespace(**block) for block in result["content"]]
        return to_chat_content(blocks), bool(result.get("isError"))

    async def close(self) -> None:
        """See `ToolServer.close`: it lasts as long as its rollout."""

    async def _request(self, method: str, params: dict[str, Any]) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        status, _, body = await self._server.ask(_HEADERS, json.dumps(asked).encode())
        said: Any = json.loads(body) if status == 200 else {}
        if "result" not in said:
            raise ToolsetError(f"the toolset answers {method} with {status}: {body[:500]!r}")
        return said["result"]


class ContainedEndpoint:
    """A toolset in a container, as a program in another one calls it: see `ToolEndpoint`.

    Args:
        server: Its server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._answering: set[asyncio.Task[Any]] = set()
        self._results: dict[str, Any] = {}
        """The last result of each method: a server that has ended is still known by them."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ToolEndpoint.answer`. It says nothing by itself, so that there is nothing to listen to."""
        if request.method != "POST":
            return web.json_response({"error": "only POST"}, status=405, headers={"Allow": "POST"})
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        asked = await request.read()
        try:
            status, headers, body = await self._server.ask(select_headers(request.headers), asked)
            if status == 200:
                self._results[str(_read_object(asked).get("method"))] = _read_object(body).get("result")
            return web.Response(status=status, headers=select_headers(headers), body=body)
        except ToolsetError as error:
            return await self._answer_failed(_read_object(asked), error)
        finally:
            self._answering.discard(task)

    async def _answer_failed(self, asked: dict[str, Any], error: ToolsetError) -> web.Response:
        """What a program is told where the server does not answer: of a call, that it has failed."""
        try:
            said = await self._server.explain_failed_call(error)
        except ToolsetError:
            return web.json_response({"error": str(error)}, status=502)
        if "id" not in asked:
            return web.Response(status=202)
        failed = {"content": [{"type": "text", "text": said}], "isError": True}
        method = str(asked.get("method"))
        result = failed if method == "tools/call" else self._results.get(method)
        if result is None:
            return web.json_response({"error": said}, status=502)
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    async def close(self) -> None:
        """See `ToolEndpoint.close`."""
        await cancel_and_wait(list(self._answering))


def _read_object(text: bytes) -> dict[str, Any]:
    """A JSON object; an empty one where it is something else."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


class _Received:
    """What a socket has received, for `http.client` to read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        """All of it."""
        return io.BytesIO(self._data)


def _read_answer(told: bytes) -> tuple[int, dict[str, str], bytes]:
    received: Any = _Received(told)
    answer = http.client.HTTPResponse(received, method="POST")
    answer.begin()
    return answer.status, dict(answer.getheaders()), answer.read()
