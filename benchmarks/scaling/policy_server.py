"""A policy of set latency, as a process of its own: `policy_server.py SECONDS TOOL`, prints its URL.

Every answer takes SECONDS and calls TOOL; an empty TOOL answers with text, streamed where that is asked for.
`GET /v1/load` gives the moments (of `time.time`) at which requests came and went, as
`[[moment, in flight from then on], …]`.
"""

import asyncio
import json
import sys
import time
from typing import Any

from aiohttp import web


class Server:
    def __init__(self, seconds: float, tool: str) -> None:
        self._seconds = seconds
        self._tool = tool
        self._in_flight = 0
        self._load: list[tuple[float, int]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/load", self._tell)
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "mock", "object": "model"}]})

    async def _tell(self, request: web.Request) -> web.Response:
        return web.json_response(self._load)

    async def _answer(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self._count(1)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self._count(-1)
        number = len(self._load)
        if asked.get("stream"):
            return web.Response(body=_stream(number), content_type="text/event-stream")
        function = {"name": self._tool, "arguments": "{}"}
        calls = [{"id": f"c{number}", "type": "function", "function": function}] if self._tool else None
        message = {"role": "assistant", "content": None if calls else "done", "tool_calls": calls}
        return web.json_response(
            {
                "id": str(number),
                "object": "chat.completion",
                "created": 0,
                "model": "mock",
                "choices": [
                    {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )

    def _count(self, change: int) -> None:
        self._in_flight += change
        self._load.append((time.time(), self._in_flight))


def _stream(number: int) -> bytes:
    """The answer `done` as the events of a stream."""
    head = {"id": str(number), "object": "chat.completion.chunk", "created": 0, "model": "mock"}
    said = {"index": 0, "delta": {"role": "assistant", "content": "done"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    events: list[dict[str, Any]] = [{**head, "choices": [said]}, {**head, "choices": [], "usage": usage}]
    lines = [json.dumps(event) for event in events]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


async def main() -> None:
    runner = web.AppRunner(Server(float(sys.argv[1]), sys.argv[2]).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
