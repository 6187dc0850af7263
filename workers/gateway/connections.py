"""HTTP/1.1 over whatever carries the gateway's connections: uvicorn's protocol, without a port."""

import asyncio
import secrets
from contextlib import suppress
from functools import cache
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from workers.gateway.application import GatewayApplication
from workers.gateway.recorder import CallRecorder

MAX_CONNECTIONS = 512
"""Most connections of one session that are served at once; another one is told 503."""
_HEADER_BYTES = 64 * 1024
_HTTP_2 = b"PRI * HTTP/2"


class Gateway:
    """One session's gateway.

    Args:
        recorder: Puts calls to the policy.
    """

    def __init__(self, recorder: CallRecorder) -> None:
        self.key = f"sk-kumite-{secrets.token_urlsafe(24)}"
        """What each request must carry: this session's own secret."""
        self.application = GatewayApplication(recorder, self.key)
        self.spoke_http2 = False
        """Whether somebody wanted to speak HTTP/2 only."""
        self._state = ServerState()

    def connect(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Connection(self, self._state)

    async def close(self) -> None:
        """Closes all connections, and breaks off the calls that go on."""
        await self.application.close()
        for connection in list(self._state.connections):
            transport = getattr(connection, "transport", None)
            with suppress(Exception):
                if transport is not None:
                    transport.abort()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection(H11Protocol):
    """uvicorn's protocol, which notices HTTP/2."""

    def __init__(self, gateway: Gateway, state: ServerState) -> None:
        app_state: dict[str, Any] = {}
        super().__init__(_config(), state, app_state, asyncio.get_running_loop())
        self.app: Any = gateway.application
        self._gateway = gateway
        self._is_first = True

    def data_received(self, data: bytes) -> None:
        """Takes what has come."""
        if self._is_first:
            self._is_first = False
            self._gateway.spoke_http2 |= data.startswith(_HTTP_2)
        super().data_received(data)


@cache
def _config() -> Config:
    """How connections are served: for all sessions alike, each connection with its session's application."""
    config = Config(
        _answer_nothing,
        interface="asgi3",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=75,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    config.load()
    return config


async def _answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands for an application where uvicorn wants one for all connections."""
    raise RuntimeError("a connection of the gateway has no session")
