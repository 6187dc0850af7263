"""HTTP/1.1 over whatever carries the gateway's connections: uvicorn's protocol, without a port."""

import asyncio
import secrets
from contextlib import suppress
from functools import cache
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from workers.gateway.application import GatewayApplication
from workers.gateway.recorder import CallRecorder

MAX_CONNECTIONS = 512
"""Most connections of one session that are served at once; another one is told 503."""
_HEADER_BYTES = 64 * 1024
"""Most bytes of a request's head, and of what else of it is no body."""
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


class _Connection(HttpToolsProtocol):
    """uvicorn's protocol over llhttp's parser, which notices HTTP/2 and bounds what is no body.

    uvicorn's other protocol parses in Python, which is a tenth of what a call costs the worker; it has a
    bound on heads of its own, and this one has none.
    """

    def __init__(self, gateway: Gateway, state: ServerState) -> None:
        app_state: dict[str, Any] = {}
        super().__init__(_config(), state, app_state, asyncio.get_running_loop())
        self.app: Any = gateway.application
        self._gateway = gateway
        self._is_first = True
        self._overhead = 0
        """Bytes that have come since the last that were some of a body, or ended a head or a request."""

    def data_received(self, data: bytes) -> None:
        """Takes what has come. A head, or what stands between chunks or behind them, has a most of bytes."""
        if self._is_first:
            self._is_first = False
            self._gateway.spoke_http2 |= data.startswith(_HTTP_2)
        if self.transport.is_closing():
            return
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > _HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"A head of more than {_HEADER_BYTES:,} bytes.")

    def on_headers_complete(self) -> None:
        """Begins with a request. One to another host, as to a proxy, has a path that there is not."""
        self._overhead = 0
        if not self.url.startswith(b"/"):
            self.url = b"/" + self.url
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Takes some of its body."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Is done with a request."""
        self._overhead = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Goes on with the next request; after an answer that came before the whole of its own, with none."""
        if self.cycle.response_complete and self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()


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
    )
    config.load()
    return config


async def _answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    """Stands for an application where uvicorn wants one for all connections."""
    raise RuntimeError("a connection of the gateway has no session")
