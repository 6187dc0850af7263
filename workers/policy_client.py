# pyright: reportMissingTypeStubs=false
"""The client with which a worker asks an OpenAI-compatible policy for actions."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import openai
import verifiers as vf
from openai import AsyncOpenAI
from verifiers.legacy.clients.openai_chat_completions_client import OpenAIChatCompletionsClient
from verifiers.legacy.types import Response

from workers.environments import tracing
from workers.errors import PolicyError, StaleEpisode
from workers.outage import outlast
from workers.policy_connection import PolicyConnection
from workers.settings import PolicyEndpoint
from workers.versions import HEADER, model_name, version_of

CONNECT_TIMEOUT = 10.0
"""Seconds to open one connection: a policy that is up accepts at once, however busy it is."""
RETRIES = 6
"""Tries after the first, for refused and broken connections, 429 and 5xx: about 24 s of backoff in all."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_GONE = 410
"""What our deployments say of an adapter that has been superseded too often."""
_NO_KEY = "none"
"""The package insists on a key; servers that ask for none ignore it."""


class ChatPolicyClient(OpenAIChatCompletionsClient):
    """verifiers' chat-completions client, for a policy under training.

    It differs from its base in what it takes for an action: an answer that says nothing and calls nothing
    (an end-of-sequence token at once) is one, and not an error. And it answers, or raises, within the
    endpoint's `request_timeout`, retries included. One client serves all episodes of a worker.

    Args:
        endpoint: Where the policy is; its kind must be `openai`.

    Raises:
        PolicyError: The endpoint has no URL.
    """

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        super().__init__(open_client(endpoint))

    async def get_native_response(
        self,
        prompt: Any,
        model: str,
        sampling_args: dict[str, Any],
        tools: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Asks for one chat completion.

        Raises:
            PolicyError: The policy refused, failed, or did not answer in time.
            verifiers.OverlongPromptError: The prompt is longer than the policy's context.
        """
        if not tools:
            # OpenAI-compatible servers refuse a tool choice where there are no tools to choose from.
            sampling_args = {name: value for name, value in sampling_args.items() if name != "tool_choice"}
        parent: Any = super()
        ask = partial(parent.get_native_response, prompt, versioned(model), sampling_args, tools, **kwargs)
        answer = await answer_of(self._endpoint, ask)
        note_version(getattr(answer, "model", None), self._endpoint.model)
        return answer

    async def raise_from_native_response(self, response: Any) -> None:
        """Refuses an answer that is not exactly one choice.

        Raises:
            verifiers.ModelError: It has none, or several.
        """
        try:
            await super().raise_from_native_response(response)
        except vf.EmptyModelResponseError:
            if not getattr(response, "choices", None):
                raise

    async def from_native_response(self, response: Any) -> Response:
        """The answer as verifiers sees it; an action that says nothing has the empty string for content."""
        return with_content(await super().from_native_response(response))


async def answer_of(endpoint: PolicyEndpoint, ask: Callable[[], Awaitable[Any]]) -> Any:
    """What a request to an endpoint is answered, within its limit.

    Raises:
        PolicyError: The policy refused, failed, or did not answer in time.
    """
    with policy_errors(endpoint):
        return await outlast(ask, endpoint.request_timeout)


def with_content(answer: Response) -> Response:
    """The same answer; an action that says nothing and calls nothing gets the empty string for content."""
    message = answer.message
    if message.content is None and not message.tool_calls:
        message.content = ""
    return answer


def versioned(model: str) -> str:
    """The model's name at the version that the running episode acts with."""
    trace = tracing.current.get()
    return model_name(model, trace.policy_version if trace else None)


def note_version(named: str | None, model: str) -> None:
    """Notes which version of a model has acted, where the answer names it: weights change between turns."""
    trace, acted = tracing.current.get(), version_of(named, model)
    if trace is not None and trace.policy_version is not None and acted is not None:
        trace.policy_version = acted


def open_client(endpoint: PolicyEndpoint) -> AsyncOpenAI:
    """A connection pool to an endpoint.

    Raises:
        PolicyError: The endpoint has no URL.
    """
    if endpoint.base_url is None:
        raise PolicyError(f"policy {endpoint.model!r} of kind {endpoint.kind!r} has no base_url")
    # A proxy named in the environment is for the world outside, never for this machine's own ports.
    local = httpx.URL(endpoint.base_url).host in _LOOPBACK
    return PolicyConnection(
        key=endpoint.api_key.get_secret_value() if endpoint.api_key else _NO_KEY,
        base_url=endpoint.base_url,
        retries=RETRIES,
        timeout=endpoint.request_timeout,
        connect=CONNECT_TIMEOUT,
        trust_env=not local,
        on_answer=lambda answer: note_version(answer.headers.get(HEADER), endpoint.model),
    )


@contextmanager
def policy_errors(endpoint: PolicyEndpoint) -> Generator[None]:
    """Words what goes wrong with a request to an endpoint.

    Raises:
        PolicyError: In place of the openai package's errors, and of those of an answer that is none.
        StaleEpisode: The version that the episode acts with is served no more.
    """
    where = f"the policy at {endpoint.base_url}"
    try:
        yield
    except (TimeoutError, openai.APITimeoutError) as error:
        limit = endpoint.request_timeout
        raise PolicyError(f"{where} gave no answer within policy.request_timeout, {limit} s") from error
    except openai.APIStatusError as error:
        if error.status_code == _GONE and endpoint.version is not None:
            raise StaleEpisode(f"{where} no longer acts by this version: {error.message}") from error
        raise PolicyError(f"{where} answered {error.status_code}: {error.message}") from error
    except openai.APIConnectionError as error:
        raise PolicyError(f"{where} cannot be reached: {error.__cause__ or error}") from error
    except (openai.OpenAIError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{where} sent no chat completion: {error}") from error


def sampling_args(endpoint: PolicyEndpoint, seed: int | None) -> dict[str, Any]:
    """The arguments to sample with, as verifiers hands them to a client.

    Args:
        endpoint: The policy.
        seed: Seeds this episode's sampling; None leaves it to the policy.

    Returns:
        Arguments of a chat-completions request; what only some servers know is under `extra_body`. With
        exact tokens, `extra_body` holds vLLM's own sampling parameters.
    """
    sampling = endpoint.sampling
    exact = endpoint.tokens == "exact"
    args: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "tool_choice": None if exact else sampling.tool_choice,
        "stop": None if exact else sampling.stop,
        "seed": seed,
    }
    extra = dict(sampling.extra_body)
    if exact and sampling.stop:
        extra["stop"] = sampling.stop
    if endpoint.token_ids and not exact:
        args["logprobs"] = True
        extra = {"return_token_ids": True, **extra}
    if extra:
        args["extra_body"] = extra
    return {name: value for name, value in args.items() if value is not None}
