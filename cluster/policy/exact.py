"""What must be so for `policy.tokens: exact`, seen before any episode starts."""

import urllib.error
from http.client import HTTPException

from cluster.errors import PolicyUnavailable
from cluster.policy.api_requests import request_json
from workers.errors import TemplateError
from workers.settings import PolicyEndpoint

_TIMEOUT = 60.0
"""Seconds that the endpoint may take for one token."""


def check_renderer(endpoint: PolicyEndpoint) -> None:
    """Sees that turns of this model can be put together exactly.

    Raises:
        PolicyUnavailable: They cannot; names the alternative.
    """
    from workers.policy.template_renderer import make_renderer  # imports transformers: seconds

    try:
        make_renderer(endpoint)
    except TemplateError as error:
        raise PolicyUnavailable(str(error)) from error


def check_route(endpoint: PolicyEndpoint, key: str | None) -> None:
    """Asks an endpoint for one token by token ids.

    Raises:
        PolicyUnavailable: It has no such route, or gives no token ids.
    """
    root = (endpoint.base_url or "").removesuffix("/v1")
    given = f"policy.tokens is `exact`, and policy.base_url is {endpoint.base_url!r}"
    sampling = {"max_tokens": 1, "temperature": 1.0, "logprobs": 1}
    body = {"model": endpoint.model, "token_ids": [0], "sampling_params": sampling}
    try:
        answer = request_json(root, "inference/v1/generate", key, _TIMEOUT, body)
        if not answer["choices"][0].get("token_ids") or not answer["choices"][0].get("logprobs"):
            raise PolicyUnavailable(f"{given}: it returns no token ids; set policy.tokens to `per_turn`")
    except urllib.error.HTTPError as error:
        if error.code in (404, 405):
            reason = "it has no route /inference/v1/generate, as a vLLM server has"
        else:
            said = error.read(500).decode(errors="replace")
            reason = f"it answers {error.code} to a request by token ids: {said}"
        raise PolicyUnavailable(f"{given}: {reason}; set policy.tokens to `per_turn`") from error
    except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
        raise PolicyUnavailable(f"{given}: it does not take token ids: {error}") from error
