# pyright: reportMissingTypeStubs=false
"""The client for `policy.tokens: exact`: token ids in, token ids out, each turn going on from the last."""

from functools import partial
from typing import Any

from verifiers.legacy.clients.renderer_client import RendererClient
from verifiers.legacy.types import Response

from workers.endpoint_watch import EndpointWatch
from workers.errors import PolicyError
from workers.policy_client import ChatPolicyClient, answer_of, open_client, versioned, with_content
from workers.settings import PolicyEndpoint
from workers.template_renderer import make_renderer

_RendererClient: Any = RendererClient


class ExactPolicyClient(_RendererClient):
    """verifiers' renderer client, with `ChatPolicyClient`'s limits and errors, over `/inference/v1/generate`.

    A turn whose messages go on from the turn before has a prompt that begins with that turn's prompt and
    sampled ids, verbatim; where that cannot be had, it fails.

    Args:
        endpoint: Where the policy is; its kind must be `openai`.

    Raises:
        PolicyError: The endpoint has no URL.
        TemplateError: No renderer is exact for the model.
    """

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        self.watch = EndpointWatch(endpoint)
        super().__init__(open_client(endpoint), renderer=make_renderer(endpoint))

    async def get_native_response(
        self,
        prompt: Any,
        model: str,
        sampling_args: dict[str, Any],
        tools: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Asks for one turn.

        Raises:
            PolicyError: The policy refused, failed, did not answer in time, or cannot go on exactly.
            verifiers.OverlongPromptError: The prompt is longer than the policy's context.
        """
        parent: Any = super()
        ask = partial(parent.get_native_response, prompt, versioned(model), sampling_args, tools, **kwargs)
        answer = await answer_of(self._endpoint, ask, self.watch.pace)
        self._check_continues(answer["prompt_ids"], prompt, kwargs.get("state"))
        return answer

    async def raise_from_native_response(self, response: Any) -> None:
        """An action that says nothing and calls nothing is one, and not an error."""

    async def from_native_response(self, response: Any) -> Response:
        """The answer as verifiers sees it."""
        parent: Any = super()
        return with_content(await parent.from_native_response(response))

    def _check_continues(self, ids: list[int], prompt: list[Any], state: Any) -> None:
        trajectory: Any = state.get("trajectory") if state else None
        if not trajectory or len(prompt) <= len(trajectory[-1]["prompt"]) + 1:
            return
        before: Any = trajectory[-1]
        tokens: Any = before["response"].message.tokens
        so_far: list[int] = [*tokens.prompt_ids, *tokens.completion_ids]
        if ids[: len(so_far)] == so_far:
            return
        seen: list[Any] = before["prompt"]
        said = [str(message.content) for message in seen]
        if [str(message.get("content")) for message in prompt[: len(said)]] == said:
            raise PolicyError(
                "policy.tokens is `exact`, and this turn's prompt cannot go on from the last one verbatim: "
                "the environment answered with other messages than tool results and then one user message; "
                "set policy.tokens to `per_turn`"
            )


def make_client(endpoint: PolicyEndpoint) -> "ChatPolicyClient | ExactPolicyClient":
    """The client for an endpoint, by what it asks of tokens."""
    return ExactPolicyClient(endpoint) if endpoint.tokens == "exact" else ChatPolicyClient(endpoint)
