"""An OpenAI-compatible policy that says what a test tells it to, over real HTTP, in a thread of its own."""

import asyncio
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web


@dataclass
class Reply:
    """One answer."""

    content: str | None = "ok"
    tool_calls: list[tuple[str, dict[str, Any] | str]] = field(default_factory=list)
    """Name and arguments of each call; a string stands as it is, well-formed or not."""
    finish_reason: str | None = None
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    token_ids: list[int] = field(default_factory=lambda: [7, 8])
    logprobs: list[float] = field(default_factory=lambda: [-0.5, -0.25])
    choices: int = 1
    cached_tokens: int | None = None
    """Tokens of the prompt that the answer says were cached. None: it says nothing of that."""


@dataclass
class Fault:
    """One failure in place of an answer."""

    kind: Literal["status", "disconnect", "hang", "garbage"] = "status"
    status: int = 500
    message: str = "made to fail"


class MockPolicy:
    """Serves a policy's routes on a free port of 127.0.0.1 while its `with` lasts.

    They are `/v1/models`, `/v1/chat/completions` and vLLM's `/inference/v1/generate`.

    Each request takes the next of `script`; when that is empty, `default`. `requests` holds the bodies
    received. Token ids and log-probabilities are given only to requests that ask for them.
    """

    def __init__(
        self,
        *script: Reply | Fault,
        default: Reply | Fault | None = None,
        latency: float = 0.0,
        model: str = "mock",
        takes_tokens: bool = True,
    ) -> None:
        self.script = deque(script)
        self.default = default or Reply()
        self.latency = latency
        self.model = model
        self.takes_tokens = takes_tokens
        self.api_key: str | None = None
        """A key that requests must carry; None: any."""
        self.requests: list[dict[str, Any]] = []
        self.lets_through: int | None = None
        """So many requests are answered; the others wait until this is None again."""
        self.in_flight = 0
        self.peak = 0
        """Most requests in flight at once so far."""
        self.base_url = ""
        self._let_through = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._on_loop(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Goes away in mid-sentence: connections break, and the port refuses from now on."""
        if self._thread.is_alive():
            self._on_loop(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=60)

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self.takes_tokens:
            app.router.add_post("/inference/v1/generate", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}/v1"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        if refusal := self._refusal(request):
            return refusal
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._refusal(request):
            return refusal
        body = await request.json()
        self.requests.append(body)
        step = self.script.popleft() if self.script else self.default
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            while self.lets_through is not None and self._let_through >= self.lets_through:
                await asyncio.sleep(0.02)
            self._let_through += 1
            return await self._fail(step, request) if isinstance(step, Fault) else self._answer(step, body)
        finally:
            self.in_flight -= 1

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}":
            return None
        return web.json_response({"error": {"message": "wrong key"}}, status=401)

    async def _fail(self, fault: Fault, request: web.Request) -> web.Response:
        if fault.kind == "hang":
            await asyncio.sleep(3600)
        if fault.kind == "disconnect" and request.transport is not None:
            request.transport.abort()
        if fault.kind == "garbage":
            return web.Response(text="<html>not what you asked for</html>", content_type="text/html")
        return web.json_response({"error": {"message": fault.message}}, status=fault.status)

    def _answer(self, reply: Reply, body: dict[str, Any]) -> web.Response:
        if "token_ids" in body:
            return web.json_response(_sampled(reply, len(body["token_ids"])))
        calls = [
            {
                "id": f"call_{len(self.requests)}_{i}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
                },
            }
            for i, (name, arguments) in enumerate(reply.tool_calls)
        ]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.content, "tool_calls": calls or None},
            "finish_reason": reply.finish_reason or ("tool_calls" if calls else "stop"),
            "logprobs": None,
        }
        answer: dict[str, Any] = {
            "id": f"mock-{len(self.requests)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "usage": _usage(reply, len(reply.prompt_token_ids)),
        }
        if body.get("return_token_ids"):
            answer["prompt_token_ids"] = reply.prompt_token_ids
            choice["token_ids"] = reply.token_ids
        if body.get("logprobs"):
            tokens = zip(reply.token_ids, reply.logprobs, strict=True)
            choice["logprobs"] = {
                "content": [
                    {"token": f"token_id:{token}", "logprob": logprob, "bytes": [], "top_logprobs": []}
                    for token, logprob in tokens
                ]
            }
        answer["choices"] = [{**choice, "index": i} for i in range(reply.choices)]
        return web.json_response(answer)


def _usage(reply: Reply, prompt_tokens: int) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(reply.token_ids),
        "total_tokens": prompt_tokens + len(reply.token_ids),
    }
    if reply.cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": reply.cached_tokens}
    return usage


def _sampled(reply: Reply, prompt_tokens: int) -> dict[str, Any]:
    content = [
        {"token": f"token_id:{token}", "logprob": logprob}
        for token, logprob in zip(reply.token_ids, reply.logprobs, strict=True)
    ]
    choice = {
        "index": 0,
        "finish_reason": reply.finish_reason or "stop",
        "token_ids": reply.token_ids,
        "logprobs": {"content": content},
    }
    usage = _usage(reply, prompt_tokens)
    return {"request_id": "mock", "choices": [choice] * reply.choices, "usage": usage}
