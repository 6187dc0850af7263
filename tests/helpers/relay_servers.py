"""Protocols that answer a sandbox's connections in tests, and the server that the gateway uses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECT = """
import time
port = int(os.environ["KUMITE_GATEWAY"].rsplit(":", 1)[1])
def connect():
    end = socket.create_connection(("127.0.0.1", port), 10)
    end.settimeout(30)
    return end
"""
"""What code that a session runs begins with here."""


class Echo(asyncio.Protocol):
    """Says again what it is told, and closes when the other side does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Watcher(Echo):
    """Notes what happens to it, and answers nothing."""

    def __init__(self, made: list["Watcher"]) -> None:
        made.append(self)
        self.received = 0
        self.ended = False
        self.lost: list[Exception | None] = []
        self.paused: list[bool] = []

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.paused.append(True)

    def resume_writing(self) -> None:
        self.paused.append(False)


async def answer_http(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: says how large the body was, or streams as much as the path asks for."""
    size, more = 0, True
    while more:
        event = await receive()
        size, more = size + len(event.get("body", b"")), event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-size", str(size).encode())]})
    for _ in range(int(scope["path"].strip("/") or 0)):
        await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})


@asynccontextmanager
async def http_server() -> AsyncIterator[Callable[[], asyncio.Protocol]]:
    """A factory of uvicorn's own protocol around `answer_http`, with no socket of its own."""
    config = uvicorn.Config(answer_http, log_level="warning", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    yield lambda: H11Protocol(config, server.server_state, {})
    for task in list(server.server_state.tasks):
        task.cancel()
