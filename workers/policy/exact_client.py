# pyright: reportMissingTypeStubs=false
"""The client for `policy.tokens: exact`: token ids in, token ids out, each turn going on from the last."""

from contextvars import ContextVar
from functools import partial
from typing import Any

import httpx
from verifiers.legacy.clients.renderer_client import RendererClient
from verifiers.legacy.types import Response

from workers.errors import PolicyError, TemplateError
from workers.policy.chat_client import fill_empty_content
from workers.policy.endpoint import open_client, request_answer, versioned_model_name
from workers.policy.endpoint_watch import EndpointWatch
from workers.policy.exact_answers import read_answer, read_cached_tokens
from workers.policy.renderer_cache import RendererCache
from workers.policy.sampling_keys import make_exact_request
from workers.policy.turn_seeds import seed_turn
from workers.settings import PolicyEndpoint

_RendererClient: Any = RendererClient
_renderer: ContextVar[Any] = ContextVar("kumite_renderer")
"""The renderer of the request that the running task makes; verifiers' client has no argument for it."""
_cached: ContextVar[list[int | None]] = ContextVar("kumite_cached_tokens")
"""What the answers to the running task's request said of the cache: verifiers' client drops the usage."""


def _note_cached(answer: httpx.Response) -> None:
    _cached.get([]).append(read_cached_tokens(answer))


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

    is_exact = True

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        self.watch = EndpointWatch(endpoint)
        self._renderers = RendererCache(endpoint)
        super().__init__(open_client(endpoint, _note_cached), renderer=self._renderers.first)

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
        asked = make_exact_request(seed_turn(sampling_args))
        renderer = await self._renderers.get(asked)
        _renderer.set(renderer)
        noted: list[int | None] = []
        _cached.set(noted)
        headers = sampling_args.get("extra_headers")
        arguments = {"extra_body": asked.params, **({"extra_headers": headers} if headers else {})}
        parent: Any = super()
        ask = partial(
            parent.get_native_response, prompt, versioned_model_name(model), arguments, tools, **kwargs
        )
        try:
            answer = await request_answer(self._endpoint, ask, self.watch.pace)
        except TemplateError as error:
            raise PolicyError(
                f"policy.tokens is `exact`, and {error}; set policy.tokens to `per_turn`"
            ) from error
        self._check_continues(answer["prompt_ids"], prompt, kwargs.get("state"))
        cached = noted[-1] if noted else None
        return {**read_answer(renderer, answer, tools or [], asked), "cached_tokens": cached}

    def _get_renderer_or_pool(self, model: str, **_: Any) -> Any:
        """The renderer of the running request, for verifiers' client to ask for."""
        return _renderer.get(self._renderer)

    async def raise_from_native_response(self, response: Any) -> None:
        """An action that says nothing and calls nothing is one, and not an error."""

    async def from_native_response(self, response: Any) -> Response:
        """The answer as verifiers sees it."""
        parent: Any = super()
        made = fill_empty_content(await parent.from_native_response(response))
        cached: int | None = response.get("cached_tokens")
        if made.usage is not None and cached is not None:
            made.usage["cached_tokens"] = min(cached, made.usage.prompt_tokens)
        return made

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
        if [str(message.get("content")) for message in prompt[: len(said)]] != said:
            return
        roles = [str(message.get("role")) for message in prompt[len(said) + 1 :]]
        if roles and set(roles[:-1]) <= {"tool"} and roles[-1] in ("tool", "user"):
            reason = (
                f"the renderer {type(self._renderer).__name__} writes earlier turns anew once a {roles[-1]} "
                "message follows (some drop what the model has thought)"
            )
        else:
            reason = (
                "the environment answered with other messages than tool results and then one user message"
            )
        raise PolicyError(
            "policy.tokens is `exact`, and this turn's prompt cannot go on from the last one verbatim: "
            f"{reason}; set policy.tokens to `per_turn`"
        )
