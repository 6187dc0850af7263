"""A gateway which asks a policy that a test scripts: on a free port of 127.0.0.1, or for a session."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai

from tests.helpers.mock_policy import MockPolicy
from workers.environments.classic.steps import make_steps
from workers.environments.tracing import EpisodeTrace
from workers.gateway.connections import Gateway
from workers.gateway.limits import AgentLimits, LimitWatch
from workers.gateway.recorder import CallRecorder
from workers.policy.classic_client import make_client
from workers.policy.endpoint import sampling_args
from workers.records import StepRecord
from workers.settings import PolicyEndpoint


@dataclass
class ServedGateway:
    """A gateway, and what it has put on record."""

    url: str
    gateway: Gateway
    recorder: CallRecorder
    state: Any
    trace: EpisodeTrace

    @property
    def key(self) -> str:
        return self.gateway.key

    def openai(self, **options: Any) -> openai.AsyncOpenAI:
        given: dict[str, Any] = {"base_url": f"{self.url}/v1", "api_key": self.key, **options}
        return openai.AsyncOpenAI(**given)

    def anthropic(self, **options: Any) -> anthropic.AsyncAnthropic:
        given: dict[str, Any] = {"base_url": self.url, "api_key": self.key, **options}
        return anthropic.AsyncAnthropic(**given)

    async def close(self) -> None:
        await self.gateway.close()
        await self.state["client"].close()

    def steps(self) -> list[StepRecord]:
        """The steps so far, as a dataset has them."""
        self.state["completion"] = []
        return make_steps(self.state, self.trace)


def make_gateway(policy: MockPolicy, endpoint: PolicyEndpoint | None = None, **limits: Any) -> ServedGateway:
    """A gateway in front of a policy, which nothing can reach yet."""
    endpoint = endpoint or PolicyEndpoint(
        kind="openai", model=policy.model, base_url=policy.base_url, token_ids=True, request_timeout=30.0
    )
    state: dict[str, Any] = {
        "client": make_client(endpoint),
        "model": endpoint.model,
        "sampling_args": {**sampling_args(endpoint, None), "max_tokens": 512},
        "trajectory": [],
        "trajectory_id": "test",
        "info": {},
    }
    trace = EpisodeTrace()
    recorder = CallRecorder(state, trace, "tester", LimitWatch(AgentLimits(**limits)))
    return ServedGateway("", Gateway(recorder), recorder, state, trace)


@asynccontextmanager
async def gateway_of(policy: MockPolicy, **limits: Any) -> AsyncGenerator[Gateway]:
    """A gateway for a session's `serve_connections`, while its `async with` lasts."""
    made = make_gateway(policy, **limits)
    try:
        yield made.gateway
    finally:
        await made.close()


@asynccontextmanager
async def served_gateway(
    policy: MockPolicy, endpoint: PolicyEndpoint | None = None, **limits: Any
) -> AsyncGenerator[ServedGateway]:
    """A gateway on a free port of 127.0.0.1 while its `async with` lasts."""
    made = make_gateway(policy, endpoint, **limits)
    server = await asyncio.get_running_loop().create_server(made.gateway.connect, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        made.url = f"http://{host}:{port}"
        yield made
    finally:
        server.close()
        await made.close()
