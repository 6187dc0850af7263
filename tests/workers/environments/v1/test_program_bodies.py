"""What a program in a container sends to its model is looked at before verifiers' server parses it."""

import json

import httpx
import pytest
from aiohttp import web

from workers.environments.v1.interception import _with_checked_body


async def echo(request: web.Request) -> web.StreamResponse:
    return web.json_response({"seen": ascii(json.loads(await request.read()))})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"a": "plain"}', 200, "plain"),
        (rb'{"a": "\ud83d\ude00"}', 200, r"\\U0001f600"),
        (rb'{"a\udc00": ["\ud800"]}', 200, r"{'a\\ufffd': ['\\ufffd']}"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", 400, "nested more than 100 levels deep"),
        (b'{"a": [' + b"0," * 500_000 + b"0]}", 400, "of more than 400000 values"),
    ],
)
async def test_a_body_is_mended_or_refused(body: bytes, status: int, words: str) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/", _with_checked_body(echo))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.post(f"http://127.0.0.1:{runner.addresses[0][1]}/", content=body)
    finally:
        await runner.cleanup()
    assert answer.status_code == status
    assert words in answer.text
