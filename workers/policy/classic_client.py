"""Which client an environment of the classic API asks an OpenAI-compatible policy with."""

from typing import TYPE_CHECKING

from workers.policy.chat_client import ChatPolicyClient
from workers.settings import PolicyEndpoint

if TYPE_CHECKING:
    from workers.policy.exact_client import ExactPolicyClient


def make_client(endpoint: PolicyEndpoint) -> "ChatPolicyClient | ExactPolicyClient":
    """The client for an endpoint, by what it asks of tokens.

    Args:
        endpoint: Where the policy is; its kind must be `openai`.

    Raises:
        PolicyError: The endpoint has no URL.
        TemplateError: Its tokens are to be exact, and no renderer is exact for the model.
    """
    if endpoint.tokens != "exact":
        return ChatPolicyClient(endpoint)
    from workers.policy.exact_client import ExactPolicyClient  # imports transformers: a second of CPU

    return ExactPolicyClient(endpoint)
