"""A policy of set latency, as a process of its own: `policy_server.py SECONDS TOOL`, prints its URL.

Every answer takes SECONDS and calls TOOL; an empty TOOL answers with text. `GET /v1/load` gives the moments
(of `time.time`) at which requests came and went, as `[[moment, in flight from then on], …]`.
"""

import asyncio
import sys
import time

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
        self._count(1)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self._count(-1)
        number = len(self._load)
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


async def main() -> None:
    runner = web.AppRunner(Server(float(sys.argv[1]), sys.argv[2]).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
