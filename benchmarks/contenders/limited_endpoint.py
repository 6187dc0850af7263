"""An OpenAI-compatible endpoint that allows so many requests a second, and answers 429 beyond.

Its allowance is a token bucket, as shared keys have it: it fills up at the rate, to a second's worth at most.
"""

import asyncio
import random
import threading
import time
from types import TracebackType
from typing import Any, Self

from aiohttp import web


class LimitedEndpoint:
    """Serves chat completions on a free port of 127.0.0.1 while its `with` lasts.

    Args:
        rate: Requests allowed in a second.
        latency: Mean seconds that an answer takes; a single one takes half as long to half as long again.
    """

    def __init__(self, rate: float, latency: float) -> None:
        self.rate = rate
        self.base_url = ""
        self._latency = latency
        self._random = random.Random(7)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None
        self.reset()

    def reset(self) -> None:
        """Fills the bucket, and forgets what was counted."""
        self._tokens, self._filled = self.rate, time.monotonic()
        self.answered = self.refused = 0
        self.first: float | None = None
        self.last = 0.0

    @property
    def seconds(self) -> float:
        """From the first request to the last answer."""
        return self.last - (self.first or self.last)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(timeout=60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=60)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}/v1"

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "limited", "object": "model"}]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        now = time.monotonic()
        self.first = self.first or now
        self._tokens = min(self.rate, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens < 1:
            self.refused += 1
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        self._tokens -= 1
        await asyncio.sleep(self._latency * self._random.uniform(0.5, 1.5))
        self.answered += 1
        self.last = time.monotonic()
        return web.json_response(_make_answer(body))


def _make_answer(body: dict[str, Any]) -> dict[str, Any]:
    """A tool call first, and then a word."""
    message: dict[str, Any] = {"role": "assistant", "content": "done"}
    if body["messages"][-1]["role"] != "tool":
        function = {"name": "look", "arguments": '{"where": "there"}'}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
    return {
        "id": "answer",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "limited",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    }
