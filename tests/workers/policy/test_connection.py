from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from workers.policy.connection import PolicyConnection

BODY: dict[str, Any] = {
    "model": "mock",
    "messages": [{"role": "user", "content": 'zahl die Miete: 5 €, "heute"\n'}],
    "top_p": None,
    "temperature": 0.7,
}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


def connection(policy: MockPolicy) -> PolicyConnection:
    return PolicyConnection(
        key="secret", base_url=policy.base_url, retries=3, timeout=10, connect=10, trust_env=False
    )


async def test_a_plain_request_is_the_one_that_the_openai_package_makes():
    with MockPolicy() as policy:
        policy.api_key = "secret"
        async with (
            AsyncOpenAI(api_key="secret", base_url=policy.base_url) as package,
            connection(policy) as ours,
        ):
            clients: list[AsyncOpenAI] = [package, ours]
            for client in clients:
                answer: Any = await client.post("/chat/completions", cast_to=httpx.Response, body=BODY)
                assert answer.json()["choices"][0]["message"]["content"] == "ok"
    theirs, our_own = policy.requests
    assert our_own == theirs == BODY


async def test_a_request_is_tried_as_often_as_the_package_would():
    with MockPolicy(default=Fault(status=500)) as policy:
        async with connection(policy) as client:
            with pytest.raises(Exception, match="Error code: 500"):
                await client.post("/chat/completions", cast_to=httpx.Response, body=BODY)
    assert len(policy.requests) == 1 + 3


async def test_typed_requests_go_the_packages_way():
    with MockPolicy(Reply(content="typed")) as policy:
        async with connection(policy) as client:
            answer = await client.chat.completions.create(
                model="mock", messages=[{"role": "user", "content": "hello"}]
            )
    assert answer.choices[0].message.content == "typed"
