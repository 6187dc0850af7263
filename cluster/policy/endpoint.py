"""A policy that someone else serves: any OpenAI-compatible URL."""

import http.client
import os
import urllib.error

from pydantic import SecretStr

from cluster.config import EndpointPolicy
from cluster.errors import PolicyUnavailable
from cluster.policy.api_requests import list_models, request_json
from cluster.policy.base import PolicyClient
from cluster.policy.exact import check_renderer, check_route
from workers.settings import PolicyEndpoint

_TRIAL_TIMEOUT = 60.0


class EndpointPolicyClient(PolicyClient):
    """An endpoint that answered and knows the model.

    Raises:
        PolicyUnavailable: It does not answer, does not let us in, or does not know the model.
    """

    def __init__(self, config: EndpointPolicy) -> None:
        check_endpoint(config)
        self._config = config
        self.outcome = f"{config.model} at {config.base_url}"
        if config.tokens == "exact":
            check_route(self.endpoint(), _read_api_key(config))
            check_renderer(self.endpoint())

    def endpoint(self) -> PolicyEndpoint:
        config, key = self._config, _read_api_key(self._config)
        return PolicyEndpoint(
            kind="openai",
            model=config.model,
            base_url=config.base_url.rstrip("/"),
            api_key=None if key is None else SecretStr(key),
            token_ids=config.token_ids or config.tokens == "exact",
            tokens=config.tokens,
            tokenizer=config.tokenizer,
            renderer=config.renderer,
            tool_parser=config.tool_parser,
            paced=True,
            request_timeout=config.request_timeout,
            sampling=config.sampling,
        )


def check_endpoint(config: EndpointPolicy) -> None:
    """Asks an endpoint for its models, and, if it does not list ours, for one token of it.

    Raises:
        PolicyUnavailable: It does not answer, does not let us in, or does not know the model.
    """
    key = _read_api_key(config)
    given = f"policy.base_url is {config.base_url!r}"
    try:
        models = list_models(config.base_url, key)
        if config.model not in models:
            trial = {"model": config.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
            request_json(config.base_url, "chat/completions", key, _TRIAL_TIMEOUT, trial)
    except urllib.error.HTTPError as error:
        raise PolicyUnavailable(_refuse_endpoint(config, given, error)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise PolicyUnavailable(f"{given}, and nothing answers there: {reason}") from error
    except ValueError as error:
        raise PolicyUnavailable(
            f"{given}, and what answers there speaks no JSON: is it the API's root?"
        ) from error


def _read_api_key(config: EndpointPolicy) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env)
    if not key:
        raise PolicyUnavailable(f"policy.api_key_env is {config.api_key_env!r}, and no such variable is set")
    return key


def _refuse_endpoint(config: EndpointPolicy, given: str, error: urllib.error.HTTPError) -> str:
    said = error.read(2000).decode(errors="replace").strip()
    if error.code in (401, 403):
        named = repr(config.api_key_env) if config.api_key_env else "not set"
        return f"{given}, which refuses the key ({error.code}); policy.api_key_env is {named}"
    if error.code == 404:
        return (
            f"{given} and policy.model is {config.model!r}: there is no such model, or no chat-completions "
            f"route below that URL (404): {said}"
        )
    return f"{given}, which answers {error.code}: {said}"
