"""What the gateway refuses, it words in the agent's own dialect; what is no request does it no harm."""

import asyncio
import json
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.helpers.gateways import served_gateway
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.workers.gateway.test_dialects import in_time

USER: Any = [{"role": "user", "content": "go"}]


def test_another_key_or_none_is_401_in_each_dialect() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served, served_gateway(policy) as other:
                async with (
                    served.openai(api_key=other.key) as client,
                    served.anthropic(api_key="x") as second,
                ):
                    with pytest.raises(openai.AuthenticationError):
                        await client.chat.completions.create(model="m", messages=USER)
                    with pytest.raises(openai.AuthenticationError):
                        await client.responses.create(model="m", input="go")
                    with pytest.raises(anthropic.AuthenticationError):
                        await second.messages.create(model="m", messages=USER, max_tokens=9)
                async with httpx.AsyncClient() as plain:
                    answer = await plain.get(f"{served.url}/v1/models")
        assert answer.status_code == 401
        assert policy.requests == []

    in_time(play)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{not json", 400, "no JSON"),
        (b"[" * 200_000, 400, "no JSON"),
        (b'{"messages": "\xff"}', 400, "not UTF-8"),
        (b"[]", 400, "must be a JSON object"),
        (b"{}", 400, "no messages"),
        (b'{"messages": [7]}', 400, "no body of /v1/chat/completions"),
        (b'{"messages": [{"role": "user", "content": "a"}], "n": 2}', 400, "n: got 2"),
    ],
)
def test_bodies_that_are_none_are_told_what_is_wrong(body: bytes, status: int, words: str) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(
                    f"{served.url}/v1/chat/completions",
                    content=body,
                    headers={"authorization": f"Bearer {served.key}"},
                )
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]["message"]
        assert policy.requests == []

    in_time(play)


def test_a_body_that_says_it_is_huge_is_refused_before_it_comes() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", int(served.url.rpartition(":")[2])
                )
                writer.write(
                    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: "
                    + served.key.encode()
                    + b"\r\ncontent-length: 1073741824\r\n\r\n"
                )
                head = await reader.readuntil(b"\r\n")
                writer.close()
        assert head == b"HTTP/1.1 413 Request Entity Too Large\r\n" or b" 413 " in head

    in_time(play)


def test_http_2_and_smuggled_requests_are_400() -> None:
    smuggled = (
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    )

    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                for data in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", smuggled, b"\x00\xff" * 64 + b"\r\n\r\n"):
                    port = int(served.url.rpartition(":")[2])
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(data)
                    said = await reader.read(4096)
                    writer.close()
                    assert said.split(b" ")[1] in (b"400", b"401"), said
                    assert b" 200 " not in said, said
                assert served.gateway.spoke_http2
        assert policy.requests == []

    in_time(play)


HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"content-length: 100\r\n\r\n{", b"401"),
        (HEAD + b"x: " + b"y" * 70_000, b"400"),
        (HEAD + b"x: y\r\n" * 14_000, b"400"),
        (b"POST /" + b"y" * 70_000, b"400"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 14_000, b"401"),
    ],
    ids=["answered before its body", "long header", "many headers", "long path", "many trailers"],
)
def test_after_what_is_no_whole_request_the_connection_is_closed(data: bytes, status: bytes) -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                port = int(served.url.rpartition(":")[2])
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                said = await reader.read()
                writer.close()
        assert said.split(b" ")[1] == status, said

    in_time(play)


def test_after_a_refusal_the_connection_goes_on() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served:
                port = int(served.url.rpartition(":")[2])
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for _ in range(2):
                    writer.write(HEAD + b"content-length: 2\r\n\r\n{}")
                    assert b" 401 " in await reader.readuntil(b"\r\n")
                    await reader.readuntil(b"}}")
                writer.close()

    in_time(play)


def test_routes_that_do_not_exist_are_404_and_remembered() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                key = {"authorization": f"Bearer {served.key}"}
                answer = await client.post(f"{served.url}/v1/completions", json={}, headers=key)
                unknown = list(served.gateway.application.unknown_routes)
        assert answer.status_code == 404
        assert "there is no route POST /v1/completions" in answer.json()["error"]["message"]
        assert unknown == ["POST /v1/completions"]

    in_time(play)


def test_what_the_policy_refuses_is_the_agents_to_read() -> None:
    async def play() -> None:
        refusal = Fault(status=400, message="tool schemas are not supported")
        with MockPolicy(refusal, refusal, refusal, Reply("better")) as policy:
            async with served_gateway(policy) as served:
                async with served.openai() as client, served.anthropic() as other:
                    with pytest.raises(openai.BadRequestError, match="schemas are not supported"):
                        await client.chat.completions.create(model="m", messages=USER)
                    with pytest.raises(openai.BadRequestError, match="schemas are not supported"):
                        await client.responses.create(model="m", input="go", stream=True)
                    with pytest.raises(anthropic.BadRequestError, match="schemas are not supported"):
                        await other.messages.create(model="m", messages=USER, max_tokens=9)
                    answer = await client.chat.completions.create(model="m", messages=USER)
                steps = served.steps()
        assert answer.choices[0].message.content == "better"
        assert [step.action.content for step in steps] == ["better"]

    in_time(play)


@pytest.mark.slow
def test_a_policy_that_is_down_for_a_while_is_waited_for() -> None:
    async def play() -> None:
        with MockPolicy(Fault(status=503), Fault(kind="disconnect"), Reply("back")) as policy:
            async with served_gateway(policy) as served, served.openai(max_retries=0) as client:
                answer = await client.chat.completions.create(model="m", messages=USER)
        assert answer.choices[0].message.content == "back"
        assert served.recorder.failure is None

    in_time(play)


@pytest.mark.slow
def test_streams_say_that_the_policy_still_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.gateway.application.KEEP_ALIVE", 0.05)

    async def play() -> None:
        with MockPolicy(latency=0.5) as policy:
            async with served_gateway(policy) as served, httpx.AsyncClient(trust_env=False) as client:
                for path, key, sign in (
                    ("chat/completions", {"authorization": f"Bearer {served.key}"}, ": keep-alive"),
                    ("messages", {"x-api-key": served.key}, "event: ping"),
                ):
                    body = {"messages": USER, "stream": True, "max_tokens": 9}
                    answer = await client.post(f"{served.url}/v1/{path}", json=body, headers=key)
                    assert answer.status_code == 200
                    assert answer.text.count(sign) >= 2
                    assert '"ok"' in answer.text

    in_time(play)


@pytest.mark.slow
def test_limits_are_refused_in_the_agents_dialect() -> None:
    async def play() -> None:
        with MockPolicy() as policy:
            async with served_gateway(policy, turns=1) as served:
                async with served.openai() as client, served.anthropic() as other:
                    await client.chat.completions.create(model="m", messages=USER)
                    with pytest.raises(openai.PermissionDeniedError, match="limit is reached: 1 model calls"):
                        await client.responses.create(model="m", input="go")
                    with pytest.raises(anthropic.PermissionDeniedError, match="graded as it is"):
                        await other.messages.create(model="m", messages=USER, max_tokens=9)
                assert served.recorder.limits.reached == "max_turns"
            async with served_gateway(policy, tokens=2) as served, served.openai() as client:
                await client.chat.completions.create(model="m", messages=USER)
                with pytest.raises(openai.PermissionDeniedError, match="2 sampled tokens"):
                    await client.chat.completions.create(model="m", messages=USER)
            prices = {"input": 1.0, "output": 1e6}
            async with served_gateway(policy, cost=1.5, prices=prices) as served, served.openai() as client:
                await client.chat.completions.create(model="m", messages=USER)
                with pytest.raises(openai.PermissionDeniedError, match=r"a cost of 1\.5"):
                    await client.chat.completions.create(model="m", messages=USER)
        assert len(policy.requests) == 3
        assert json.dumps(policy.requests[0]["messages"])

    in_time(play)
