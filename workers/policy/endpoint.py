# pyright: reportMissingTypeStubs=false
"""Asking an OpenAI-compatible policy for chat completions, whichever API of verifiers plays the episode."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from workers.environments import tracing
from workers.errors import OverlongPromptError, PolicyError, PolicyRefusal, StaleEpisode
from workers.policy.answers import page_title, read_completion
from workers.policy.connection import PolicyConnection
from workers.policy.endpoint_watch import EndpointWatch
from workers.policy.outage import retry_until_answered
from workers.policy.overlong_prompts import is_overlong
from workers.policy.refusals import classify_refusal, stated_wait
from workers.policy.request_limits import TokenLimit, is_limit_ignored, token_limit_of
from workers.policy.request_pace import RequestPace
from workers.policy.requests import request_body, with_json_arguments
from workers.policy.versions import HEADER, model_name, parse_version
from workers.settings import PolicyEndpoint

_T = TypeVar("_T")

CONNECT_TIMEOUT = 10.0
"""Seconds to open one connection: a policy that is up accepts at once, however busy it is."""
RETRIES = 6
"""Tries after the first, for refused and broken connections, and 5xx: about 24 s of backoff in all."""
NO_TOKENS_REASON = "the policy sent no token ids, or no log-probabilities"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_VERSION_GONE_STATUS = 410
"""What our deployments say of an adapter that has been superseded too often."""
_PLACEHOLDER_KEY = "none"
"""The package insists on a key; servers that ask for none ignore it."""


class EndpointClient:
    """Asks a policy for chat completions, at the pace that its endpoint takes.

    It answers, or raises, within the endpoint's `request_timeout`, retries included. One serves all episodes
    of a worker.

    Args:
        endpoint: Where the policy is; its kind must be `openai`.

    Raises:
        PolicyError: The endpoint has no URL.
    """

    def __init__(self, endpoint: PolicyEndpoint) -> None:
        self._endpoint = endpoint
        self._connection = open_client(endpoint)
        self.watch = EndpointWatch(endpoint)
        self._limit = TokenLimit(endpoint.base_url or "")
        self._takes_any_arguments = True

    @property
    def connection(self) -> AsyncOpenAI:
        """The openai package's client that it asks by."""
        return self._connection

    async def close(self) -> None:
        """Closes its connections."""
        await self._connection.close()

    async def ask(
        self, messages: list[Any], model: str, sampling: dict[str, Any], tools: list[Any]
    ) -> tuple[list[Any], ChatCompletion]:
        """The answer, and the messages that it is an answer to.

        A server that refuses to take back a call which is no JSON, the policy's own, is sent one without
        arguments in its place.
        """
        mended = with_json_arguments(messages)
        if mended is None or not self._takes_any_arguments:
            messages = messages if mended is None else mended
            return messages, await self._complete(messages, model, sampling, tools)
        try:
            return messages, await self._complete(messages, model, sampling, tools)
        except PolicyRefusal:
            try:
                answer = await self._complete(mended, model, sampling, tools)
            except PolicyError:
                answer = None
            if answer is None:
                raise
        self._takes_any_arguments = False
        self.watch.notice(
            "it refuses tool calls of its own whose arguments are no JSON object: they are sent back to it "
            "with the arguments {}"
        )
        return mended, answer

    async def _complete(
        self, messages: list[Any], model: str, sampling: dict[str, Any], tools: list[Any]
    ) -> ChatCompletion:
        limit = token_limit_of(sampling)
        names = self._limit.names

        async def ask() -> ChatCompletion:
            nonlocal names
            names = self._limit.names
            body = request_body(messages, versioned_model_name(model), self._limit.apply(sampling), tools)
            raw: Any = await self._connection.post("/chat/completions", body=body, cast_to=httpx.Response)
            return read_completion(raw, limit)

        async def ask_under_other_names() -> ChatCompletion:
            try:
                return await ask()
            except openai.APIStatusError as error:
                if not self._limit.learn(error, names):
                    raise
            return await ask()

        is_first = all(message["role"] != "assistant" for message in messages)
        answer = await request_answer(self._endpoint, ask_under_other_names, self.watch.pace, is_first)
        note_version(answer.model, self._endpoint.model)
        sampled = answer.usage.completion_tokens if answer.usage is not None else None
        if is_limit_ignored(limit, sampled):
            self.watch.notice(
                f"it sampled {sampled} tokens in one turn, and the limit (policy.sampling.max_tokens) is "
                f"{limit}: it was sent as {' and '.join(names)}, and is not heeded"
            )
        return answer


async def request_answer(
    endpoint: PolicyEndpoint,
    ask: Callable[[], Awaitable[_T]],
    pace: RequestPace | None = None,
    first_turn: bool = False,
) -> _T:
    """Sends a request to an endpoint and returns its answer, within its limit.

    Args:
        endpoint: The policy.
        ask: Makes the request.
        pace: Says when to send. None: at once.
        first_turn: Whether nothing in the prompt is the policy's own.

    Raises:
        PolicyError: The policy refused, failed, or did not answer in time.
        OverlongPromptError: The prompt is longer than the policy's context.
    """
    with word_policy_errors(endpoint, first_turn):
        return await retry_until_answered(ask, endpoint.request_timeout, pace)


def versioned_model_name(model: str) -> str:
    """The model's name at the version that the running episode acts with."""
    trace = tracing.current_trace.get()
    return model_name(model, trace.policy_version if trace else None)


def note_version(named: str | None, model: str) -> None:
    """Notes which version of a model has acted, where the answer names it: weights change between turns."""
    trace, acted = tracing.current_trace.get(), parse_version(named, model)
    if trace is not None and trace.policy_version is not None and acted is not None:
        trace.policy_version = acted


def check_version(trace: tracing.EpisodeTrace) -> None:
    """Ends an episode that is to finish on the version it began with, and cannot: its weights have gone.

    Raises:
        StaleEpisode: They have.
    """
    versions = trace.turn_versions()
    began = versions[0] if versions else trace.policy_version
    if trace.newest_version is None and trace.policy_version != began:
        raise StaleEpisode(
            f"it began on version {began}, and version {trace.policy_version} has taken its place; with "
            "policy.in_flight `move`, it would go on"
        )


def open_client(
    endpoint: PolicyEndpoint, on_answer: Callable[[httpx.Response], None] = lambda _: None
) -> AsyncOpenAI:
    """A connection pool to an endpoint.

    Args:
        endpoint: The endpoint.
        on_answer: Is shown every answer, in the task that asked or one of its own.

    Raises:
        PolicyError: The endpoint has no URL.
    """
    if endpoint.base_url is None:
        raise PolicyError(f"policy {endpoint.model!r} of kind {endpoint.kind!r} has no base_url")

    def read_headers(answer: httpx.Response) -> None:
        note_version(answer.headers.get(HEADER), endpoint.model)
        on_answer(answer)

    # A proxy named in the environment is for the world outside, never for this machine's own ports.
    local = httpx.URL(endpoint.base_url).host in _LOOPBACK
    return PolicyConnection(
        key=endpoint.api_key.get_secret_value() if endpoint.api_key else _PLACEHOLDER_KEY,
        base_url=endpoint.base_url,
        retries=RETRIES,
        timeout=endpoint.request_timeout,
        connect=CONNECT_TIMEOUT,
        trust_env=not local,
        on_answer=read_headers,
    )


@contextmanager
def word_policy_errors(endpoint: PolicyEndpoint, first_turn: bool = False) -> Generator[None]:
    """Words what goes wrong with a request to an endpoint.

    Raises:
        PolicyError: In place of the openai package's errors, and of those of an answer that is none.
        StaleEpisode: The version that the episode acts with is served no more.
        OverlongPromptError: The prompt is longer than the policy's context.
    """
    where = f"the policy at {endpoint.base_url}"
    limit = endpoint.request_timeout
    try:
        yield
    except (TimeoutError, openai.APITimeoutError) as error:
        raise PolicyError(f"{where} gave no answer within policy.request_timeout, {limit} s") from error
    except openai.APIStatusError as error:
        said = _refusal_text(error)
        if error.status_code == _VERSION_GONE_STATUS and endpoint.version is not None:
            raise StaleEpisode(f"{where} no longer acts by this version: {said}") from error
        if is_overlong(error.status_code, error.response.text, first_turn):
            raise OverlongPromptError(f"{where} answered {error.status_code}: {said}") from error
        refusal = classify_refusal(error)
        if refusal == "lasting" and endpoint.version is None:
            raise PolicyRefusal(f"{where} answered {error.status_code}: {said}") from error
        if refusal == "busy":
            wait = stated_wait(error.response.headers)
            asks = f", and asks to wait {wait:g} s" if wait else ""
            raise PolicyError(
                f"{where} answered {error.status_code} for as long as policy.request_timeout allows, {limit} "
                f"s{asks}: {said}"
            ) from error
        raise PolicyError(f"{where} answered {error.status_code}: {said}") from error
    except openai.APIConnectionError as error:
        raise PolicyError(f"{where} cannot be reached: {error.__cause__ or error}") from error
    except PolicyError as error:
        raise PolicyError(f"{where} sent an answer that is no chat completion: {error}") from error
    except (openai.OpenAIError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{where} sent no chat completion: {error}") from error


def _refusal_text(error: openai.APIStatusError) -> str:
    """What a refusal says; of a web page, its title."""
    title = page_title(error.response.text)
    if title is not None:
        return f"a web page, {title!r}"
    if error.response.is_redirect:
        return f"it is at {error.response.headers.get('location')} now; set policy.base_url to it"
    return error.message


def sampling_args(endpoint: PolicyEndpoint, seed: int | None) -> dict[str, Any]:
    """The arguments to sample with, as verifiers hands them to a client.

    Args:
        endpoint: The policy.
        seed: Seeds this episode's sampling, of which each turn's seed is made; None leaves it to the policy.

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
