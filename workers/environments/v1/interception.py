"""verifiers' own model boundary for programs in containers: its routes, answered without a port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from verifiers.v1 import dialects
from verifiers.v1.clients.client import RelayReply

from workers.environments.v1.tool_endpoints import ROUTE
from workers.gateway.bodies import mend_body
from workers.gateway.errors import GatewayError
from workers.sandbox.relay import ProtocolFactory

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_DIALECTS: tuple[Any, ...] = cast(Any, dialects).DIALECTS
_MOST_BODY = 64 * 1024 * 1024
"""Largest request in bytes: a program in a container may be hostile, and the worker holds it in memory."""
_ENDED_WITHIN = 1.0
"""Seconds that connections have to end when the worker goes down: their containers are gone by then."""


class ProgramRoutes:
    """The routes that a harness's program, or a tool beside it, asks.

    Args:
        server: verifiers' server, whose handlers answer.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._runner: web.AppRunner | None = None

    async def start(self) -> ProtocolFactory:
        """Makes what answers a connection: each is given a protocol of its own."""
        app = web.Application(client_max_size=_MOST_BODY)
        add, server = app.router.add_route, self._server
        for dialect in _DIALECTS:
            for route in dialect.routes:
                add("POST", route, _with_checked_body(server._handler_for(dialect)))
        add("GET", "/v1/models", self._list_models)
        add("GET", "/state", server.handle_state_get)
        add("PUT", "/state", server.handle_state_put)
        add("GET", "/task", server.handle_task_get)
        add("POST", "/tool", server.handle_tool)
        add("*", ROUTE, server.tools.answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_ENDED_WITHIN)
        await self._runner.setup()
        assert self._runner.server is not None
        return self._runner.server

    async def stop(self) -> None:
        """Ends all connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _list_models(self, request: web.Request) -> web.Response:
        """The policy, for a program that looks for its model; nothing else is asked for it."""
        for dialect in _DIALECTS:
            session = self._server.sessions.get(dialect.secret(request.headers))
            if session is not None:
                session.adopt(asyncio.current_task())
                model = {"id": session.ctx.model, "object": "model", "owned_by": "kumite"}
                return web.json_response({"object": "list", "data": [model]})
        return web.json_response({"error": "unauthorized"}, status=401)


def _with_checked_body(handle: Handler) -> Handler:
    """A handler that is given no body which would stop the worker, or which no policy can be sent.

    verifiers takes what its client raises at such a body for the policy's failure, and the episode would be
    played again: code in the container could get rid of it.
    """

    async def checked(request: web.Request) -> web.StreamResponse:
        given: Any = request
        try:
            given._read_bytes = mend_body(await request.read())  # where `read` keeps it
        except GatewayError as error:
            said = {"message": str(error), "type": "invalid_request_error"}
            return web.json_response({"type": "error", "error": said}, status=error.status)
        return await handle(request)

    return checked


def as_stream(dialect: Any, raw: dict[str, Any]) -> Any:
    """A whole answer as the events of a stream, for a program that asked for one."""

    async def events() -> AsyncIterator[bytes]:
        for event in dialect.stream_events(raw):
            yield event

    async def close() -> None:
        """There is nothing to close."""

    return RelayReply("text/event-stream", events(), close)
