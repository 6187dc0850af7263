"""The bodies of requests: bounded while they come, and looked at before they are parsed."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, cast

from workers.gateway.errors import GatewayError
from workers.sandbox.wire import ProtocolError, check_form

MAX_BODY = 64 * 1024 * 1024
"""Most bytes of a request's body."""
_ALL_BODIES = 2 * MAX_BODY
"""Most bytes of all bodies of a session that are read or answered at a time: 256 connections with a large one
each would take the worker's memory, and with it every episode that it plays."""
_BODY_SECONDS = 60.0
"""Seconds that a request's body may take to come."""
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
Receive = Callable[[], Awaitable[Any]]


class BodyRoom:
    """How many bytes of bodies one session has in the worker's memory."""

    def __init__(self) -> None:
        self._taken = 0

    def give(self, size: int) -> None:
        """Notes that a body, or so much of one, is gone."""
        self._taken -= size

    async def read(self, receive: Receive, headers: dict[str, str]) -> bytes:
        """A request's body, whose bytes are to be given back.

        Raises:
            GatewayError: It is too large, too slow, or packed, or there are too many large ones.
        """
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise GatewayError(
                "invalid", f"content-encoding: got {headers['content-encoding']!r}; send it plain"
            )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            raise _too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while await self._read_part(receive, body):
                    pass
        except TimeoutError as error:
            self.give(len(body))
            raise GatewayError("invalid", f"the body took more than {_BODY_SECONDS:g} s to come") from error
        except BaseException:
            self.give(len(body))
            raise
        return bytes(body)

    async def _read_part(self, receive: Receive, body: bytearray) -> bool:
        """Reads the next bytes of a body; says whether there are more."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GatewayError("invalid", "the request was broken off")
        part = message.get("body", b"")
        if self._taken + len(part) > _ALL_BODIES:
            raise GatewayError(
                "unavailable",
                f"this session's requests that are not answered yet have {_ALL_BODIES:,} bytes together; "
                "send this one again later",
            )
        self._taken += len(part)
        body += part
        if len(body) > MAX_BODY:
            raise _too_large()
        return bool(message.get("more_body"))


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


def mend_body(raw: bytes) -> bytes:
    """The same body, for somebody else to parse, with text that UTF-8 can hold.

    Raises:
        GatewayError: As `decode_body` does, for its form.
    """
    if _MAY_BE_SURROGATE.search(raw):
        return json.dumps(decode_body(raw)).encode()
    try:
        check_form(raw, "a body")
    except ProtocolError as error:
        raise GatewayError("invalid", f"the body is no JSON that can be taken: {error}") from error
    return raw


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
