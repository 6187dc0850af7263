"""The gateway's HTTP application: one for each session, which knows its own key only."""

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from workers.gateway.bodies import BodyRoom, Receive, decode_body
from workers.gateway.calls import ModelAnswer, ModelRequest, text_of
from workers.gateway.dialects import DIALECTS, Dialect
from workers.gateway.errors import GatewayError
from workers.gateway.recorder import CallRecorder
from workers.gateway.retries import Call, Retries

_log = logging.getLogger(__name__)
KEEP_ALIVE = 5.0
"""Seconds after which a stream says that the policy is still thinking, again and again."""
_CHARACTERS_PER_TOKEN = 4.0
"""By which tokens are counted before the policy has counted any."""

Send = Callable[[Any], Awaitable[None]]
_ROUTES = {dialect.route: dialect for dialect in DIALECTS}
_COUNT = "/v1/messages/count_tokens"
_MODELS = "/v1/models"
_MOST_UNKNOWN = 8
"""Routes that do not exist and are remembered."""


class GatewayApplication:
    """An ASGI application with the routes that agents ask for a model.

    Args:
        recorder: Puts calls to the policy.
        key: What each request must carry.
    """

    def __init__(self, recorder: CallRecorder, key: str) -> None:
        self._recorder = recorder
        self._key = key
        self._bodies = BodyRoom()
        self._retries: Retries[ModelAnswer] = Retries()
        self.requests = 0
        """Requests that carried the key."""
        self.unknown_routes: dict[str, None] = {}
        """Those that were asked and do not exist."""
        self._ratio = _CHARACTERS_PER_TOKEN

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return
        path = scope["path"].rstrip("/") or "/"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        dialect = _ROUTES.get(path.removesuffix("/count_tokens"), DIALECTS[0])
        if path.startswith(_MODELS) and "anthropic-version" in headers:
            dialect = _ROUTES["/v1/messages"]
        try:
            self._check_key(dialect, headers)
            self.requests += 1
            await self._route(scope["method"], path, dialect, headers, receive, send)
        except GatewayError as error:
            await _send_json(send, error.status, dialect.error(error))

    async def close(self) -> None:
        """Breaks off the calls that go on."""
        await self._retries.close()

    def _check_key(self, dialect: Dialect, headers: dict[str, str]) -> None:
        given = dialect.secret(headers) or headers.get("x-api-key") or headers.get("api-key") or ""
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise GatewayError("key", "the API key is missing or wrong: it is in OPENAI_API_KEY")

    async def _route(
        self, method: str, path: str, dialect: Dialect, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        if method == "GET" and (path == _MODELS or path.startswith(f"{_MODELS}/")):
            await _send_json(send, 200, self._models(path))
        elif method == "POST" and path == _COUNT:
            raw = await self._bodies.read(receive, headers)
            try:
                count = self._count(dialect.read(decode_body(raw)))
            finally:
                self._bodies.give(len(raw))
            await _send_json(send, 200, {"input_tokens": count})
        elif method == "POST" and path in _ROUTES:
            await self._call(path, dialect, headers, receive, send)
        else:
            if len(self.unknown_routes) < _MOST_UNKNOWN:
                self.unknown_routes[f"{method} {path}"[:200]] = None
            known = ", ".join([*(f"POST {route}" for route in (*_ROUTES, _COUNT)), f"GET {_MODELS}"])
            raise GatewayError("route", f"there is no route {method} {path[:200]}; there are {known}")

    async def _call(
        self, path: str, dialect: Dialect, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        request, call = await self._begin_call(path, dialect, headers, receive)
        call.listeners += 1
        gone = asyncio.ensure_future(_gone(receive))
        try:
            if request.stream:
                await _stream(call, dialect, request, gone, send)
            else:
                await _wait(call, gone)
                answer = call.work.result()
                self._note(request, answer)
                await _send_json(send, 200, dialect.answer(request, answer))
            call.delivered = not gone.done()
        except _Gone:
            return
        except asyncio.CancelledError:
            if call.work.cancelled():
                raise GatewayError("unavailable", "the episode has ended") from None
            raise
        finally:
            call.listeners -= 1
            gone.cancel()

    async def _begin_call(
        self, path: str, dialect: Dialect, headers: dict[str, str], receive: Receive
    ) -> tuple[ModelRequest, Call[ModelAnswer]]:
        """Reads a model call, and puts it to the policy unless it is one that was made before.

        Its body counts as long as the policy thinks about it, whether somebody waits for the answer or not.
        """
        raw = await self._bodies.read(receive, headers)
        size, call = len(raw), None
        try:
            request = dialect.read(decode_body(raw))
            call = self._retries.join(path, raw, headers, lambda: self._recorder.ask(request, dialect.name))
            return request, call
        finally:
            if call is None:
                self._bodies.give(size)
            else:
                call.work.add_done_callback(lambda _: self._bodies.give(size))

    def _models(self, path: str) -> dict[str, Any]:
        """The one model that there is, in OpenAI's and Anthropic's form at once."""
        name = self._recorder.model
        model = {
            "id": name,
            "object": "model",
            "type": "model",
            "display_name": name,
            "created": 0,
            "created_at": "1970-01-01T00:00:00Z",
            "owned_by": "kumite",
        }
        if path != _MODELS:
            return {**model, "id": path.removeprefix(f"{_MODELS}/")}
        return {"object": "list", "data": [model], "has_more": False, "first_id": name, "last_id": name}

    def _count(self, request: ModelRequest) -> int:
        """About how many tokens a prompt has, by those that the policy has counted."""
        return max(1, round(_characters(request) / self._ratio))

    def _note(self, request: ModelRequest, answer: ModelAnswer) -> None:
        if answer.prompt_tokens:
            self._ratio = max(0.1, _characters(request) / answer.prompt_tokens)


class _Gone(Exception):
    """Nobody reads the answer any more."""


async def _stream(
    call: Call[ModelAnswer], dialect: Dialect, request: ModelRequest, gone: asyncio.Future[None], send: Send
) -> None:
    """Sends an answer as events. A refusal that comes soon still has a status of its own."""
    begun = False

    async def begin() -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def say(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    while not await _wait(call, gone, KEEP_ALIVE):
        if not begun:
            await begin()
            begun = True
        await say(dialect.keep_alive())
    try:
        answer = call.work.result()
    except GatewayError as error:
        if not begun:
            raise
        await say(dialect.error_event(error))
    else:
        if not begun:
            await begin()
        await say(b"".join(dialect.events(request, answer)))
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait(call: Call[Any], gone: asyncio.Future[None], seconds: float | None = None) -> bool:
    """Waits for a call, or for its reader to go; says whether it is done.

    Raises:
        _Gone: The reader has gone.
    """
    await asyncio.wait({call.work, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if gone.done() and not call.work.done():
        raise _Gone
    return call.work.done()


async def _gone(receive: Receive) -> None:
    """Returns when the connection has been closed."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _characters(request: ModelRequest) -> int:
    said = sum(len(text_of(message.content)) for message in request.messages)
    calls = sum(
        len(call.arguments)
        for message in request.messages
        for call in getattr(message, "tool_calls", None) or ()
    )
    return (
        said + calls + sum(len(json.dumps(tool.parameters)) + len(tool.description) for tool in request.tools)
    )


async def _send_json(send: Send, status: int, body: Any) -> None:
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
