"""Toolsets of the worker's side as programs in containers call them: MCP over HTTP, on the one pipe."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from workers.cancellation import cancel_and_wait

ROUTE = "/tools/{key}/mcp"
"""Where a toolset is served: its key is a secret of the rollout that may call it."""
_PASSED_ON = ("accept", "content-type", "last-event-id")
"""Headers that a program and a server elsewhere are told of each other, beside MCP's own."""
MOST_SILENCE = 600.0
"""Most seconds that a toolset which does not run in this process may say nothing: verifiers' own programs
wait as long."""
_CONNECT = 10.0
"""Seconds that it may take to reach a server elsewhere."""

InCall = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Does something with the context of a rollout's call."""


class ToolEndpoint(Protocol):
    """Answers a program's requests to one toolset."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to one request."""
        ...

    async def close(self) -> None:
        """Breaks off what is still called."""
        ...


class WorkerEndpoint:
    """A toolset that runs in this process, served as verifiers serves it: each request by itself.

    Args:
        server: The MCP server that has its tools, of MCP 1 or 2.
        in_call: Does something as a call of the rollout's.
    """

    def __init__(self, server: Any, in_call: InCall) -> None:
        self._server = server
        self._in_call = in_call
        self._manager: Any = None
        self._ready: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[Any]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ToolEndpoint.answer`. It says nothing by itself, so that there is nothing to listen to."""
        if request.method != "POST":
            return web.json_response({"error": "only POST"}, status=405, headers={"Allow": "POST"})
        await self._ensure_running()
        told = _Told(request, await request.read())
        work = asyncio.ensure_future(
            self._in_call(lambda: self._manager.handle_request(told.scope, told.receive, told.send))
        )
        self._answering.add(work)
        work.add_done_callback(self._answering.discard)
        try:
            await asyncio.wait([work])
        finally:
            work.cancel()
        if work.cancelled():
            return web.json_response({"error": "rollout concluded"}, status=409)
        work.result()
        return told.response()

    async def close(self) -> None:
        """See `ToolEndpoint.close`."""
        running, self._running = self._running, None
        await cancel_and_wait([*self._answering, *([running] if running is not None else [])])

    async def _ensure_running(self) -> None:
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._running = asyncio.create_task(self._run(self._ready))
        await asyncio.shield(self._ready)

    async def _run(self, ready: "asyncio.Future[None]") -> None:
        """Holds the tasks of the MCP package's, since they must end where they began."""
        try:
            self._manager = _make_manager(self._server)
            async with self._manager.run():
                ready.set_result(None)
                await asyncio.Future()
        finally:
            if not ready.done():
                ready.set_exception(ConnectionError("the toolset cannot be served"))


def _make_manager(server: Any) -> Any:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.server.transport_security import TransportSecuritySettings

    return StreamableHTTPSessionManager(
        app=server._lowlevel_server if hasattr(server, "_lowlevel_server") else server._mcp_server,
        json_response=True,
        stateless=True,
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )


class _Told:
    """One request and its answer, as the MCP package has them from a server of its own.

    Args:
        request: The program's.
        body: What it has sent.
    """

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": "/mcp",
            "raw_path": b"/mcp",
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
        }
        self._body: bytes | None = body
        self._status = 500
        self._headers: list[tuple[bytes, bytes]] = []
        self._answer = bytearray()

    async def receive(self) -> dict[str, Any]:
        """The request; then nothing more, for as long as it is answered."""
        body, self._body = self._body, None
        if body is None:
            await asyncio.Future()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        """Takes a part of the answer."""
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
        else:
            self._answer += message.get("body", b"")

    def response(self) -> web.Response:
        """The answer."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._headers}
        for name in [each for each in headers if each.lower() == "content-length"]:
            del headers[name]
        return web.Response(status=self._status, headers=headers, body=bytes(self._answer))


class RemoteEndpoint:
    """A toolset that is served elsewhere, which the worker asks for a program that has no network.

    Args:
        url: Where it is. Nothing else is asked there.
        timeout: Most seconds that it may say nothing.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=timeout)
        self._client: aiohttp.ClientSession | None = None
        self._answering: set[asyncio.Task[Any]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """See `ToolEndpoint.answer`; a stream of events is passed on as it comes."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        response = web.StreamResponse()
        try:
            await self._pass_on(request, response)
            return response
        except (aiohttp.ClientError, TimeoutError) as error:
            if response.prepared:  # it has begun to answer, and the program sees that it does not end
                raise
            said = f"the toolset at {self._url} does not answer: {type(error).__name__}: {error}"
            return web.json_response({"error": said}, status=502)
        finally:
            self._answering.discard(task)

    async def _pass_on(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._client is None:
            self._client = aiohttp.ClientSession(timeout=self._timeout)
        headers = select_headers(request.headers)
        body = await request.read()
        async with self._client.request(request.method, self._url, headers=headers, data=body) as answer:
            response.set_status(answer.status)
            response.headers.update(select_headers(answer.headers))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()

    async def close(self) -> None:
        """See `ToolEndpoint.close`."""
        await cancel_and_wait(list(self._answering))
        if self._client is not None:
            await self._client.close()


def select_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of MCP over HTTP: none of those that say who asks, or how bytes are carried."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() in _PASSED_ON or name.lower().startswith("mcp-")
    }
