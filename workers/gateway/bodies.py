"""The bodies of requests: bounded while they come, and looked at before they are parsed."""

import asyncio
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, cast

from workers.gateway.errors import GatewayError
from workers.sandbox.wire import ProtocolError, check_form

MAX_BODY = 64 * 1024 * 1024
"""Most bytes of a request's body."""
_ALL_BODIES = 2 * MAX_BODY
"""Most bytes of all bodies of a session that are read or answered at a time. The others wait: 256 connections
with a large one each would take the worker's memory, and with it every episode that it plays."""
_BODY_SECONDS = 60.0
"""Seconds that a request's body may take to come."""
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
Receive = Callable[[], Awaitable[Any]]


class BodyRoom:
    """How many bytes of bodies one session may still have in the worker's memory."""

    def __init__(self) -> None:
        self._left = _ALL_BODIES
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits for room; who has waited longest has it first."""
        if not self._waiting and size <= self._left:
            self._left -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:
                self._wake()
            raise

    def give(self, size: int) -> None:
        """Gives room back."""
        self._left += size
        self._wake()

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][0] <= self._left or self._waiting[0][1].cancelled()):
            size, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._left -= size
                turn.set_result(None)

    async def read(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """A request's body, whose bytes are to be given back.

        Raises:
            GatewayError: It is too large, too slow, or packed.
        """
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise GatewayError(
                "invalid", f"content-encoding: got {headers['content-encoding']!r}; send it plain"
            )
        length = headers.get("content-length", "")
        declared = int(length) if length.isdigit() else MAX_BODY
        if declared > MAX_BODY:
            raise _too_large()
        await self.take(declared)
        size = 0
        try:
            body = await _read(receive)
            size = len(body)
            return body
        finally:
            self.give(declared - size)


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GatewayError("invalid", "the request was broken off")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MAX_BODY:
                    raise _too_large()
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError as error:
        raise GatewayError("invalid", f"the body took more than {_BODY_SECONDS:g} s to come") from error


def decode_body(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. Its text is all such as UTF-8 can hold: a policy can be sent no other.

    Raises:
        GatewayError: It is none, or has so many values, or such deep ones, that the worker would stop for it.
    """
    try:
        text = raw.decode()
        check_form(raw, "a body")
        body: Any = json.loads(text, parse_constant=_refuse_constant)
        if _MAY_BE_SURROGATE.search(raw):
            body = _replace_surrogates(body)
    except UnicodeDecodeError as error:
        raise GatewayError("invalid", f"the body is not UTF-8: {error}") from error
    except ProtocolError as error:
        raise GatewayError("invalid", f"the body is no JSON that can be taken: {error}") from error
    except (ValueError, RecursionError) as error:
        raise GatewayError("invalid", f"the body is no JSON: {type(error).__name__}: {error}") from error
    if not isinstance(body, dict):
        raise GatewayError("invalid", f"the body must be a JSON object, got {type(body).__name__}")
    return cast(dict[str, Any], body)


def _replace_surrogates(body: Any) -> Any:
    """The same with U+FFFD for halves of surrogate pairs, wherever in it they are: names of fields too."""
    text = json.dumps(body, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")


def _too_large() -> GatewayError:
    return GatewayError("too_large", f"the body is larger than {MAX_BODY:,} bytes")
