"""A real deployment asked once, as a worker's client asks it."""

from typing import Any

from verifiers.legacy.types import Response, ResponseTokens, Tool, UserMessage

from cluster.policy.vllm import kept_policy
from workers.policy.chat_client import ChatPolicyClient
from workers.policy.endpoint import sampling_args
from workers.settings import PolicyEndpoint, SamplingSettings


async def ask(
    endpoint: PolicyEndpoint, content: str, tools: list[Tool] | None = None, **sampling: Any
) -> Response:
    endpoint = endpoint.model_copy(update={"sampling": SamplingSettings(**sampling)})
    client = ChatPolicyClient(endpoint)
    try:
        args = sampling_args(endpoint, seed=3)
        return await client.get_response([UserMessage(content=content)], endpoint.model, args, tools)
    finally:
        await client.close()


def tokens(answer: Response) -> ResponseTokens:
    assert answer.message.tokens is not None
    return answer.message.tokens


def read_served_version() -> int:
    """The version of the weights that the kept deployment serves."""
    status = kept_policy.read_policy_status()
    assert status is not None and status.state == "ready"
    return status.version
