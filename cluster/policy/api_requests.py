"""Requests to an OpenAI-compatible API, as the driver makes them: JSON there and back."""

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TIMEOUT = 10.0
"""Seconds in which an endpoint must list its models."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def list_models(base_url: str, key: str | None = None, timeout: float = TIMEOUT) -> list[str]:
    """Names of the models an endpoint lists; none if it has no such route.

    Raises:
        OSError: It does not answer, or refuses (`urllib.error.HTTPError`).
        http.client.HTTPException: What it answers is not HTTP.
        ValueError: What it answers is not JSON.
    """
    try:
        answer = request_json(base_url, "models", key, timeout)
    except urllib.error.HTTPError as error:
        if error.code in (404, 405, 501):
            return []
        raise
    try:
        return [str(model["id"]) for model in answer["data"]]
    except (TypeError, KeyError):
        return []


def request_json(base_url: str, path: str, key: str | None, timeout: float, body: object = None) -> Any:
    """Gets a route below the API's root, or, with a body, posts to it.

    Returns:
        What it answers, from JSON.

    Raises:
        OSError: It does not answer, or refuses (`urllib.error.HTTPError`).
        http.client.HTTPException: What it answers is not HTTP.
        ValueError: What it answers is not JSON.
    """
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/{path}", None if body is None else json.dumps(body).encode()
    )
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    # A proxy named in the environment is for the world outside, never for this machine's own ports.
    local = urllib.parse.urlsplit(base_url).hostname in _LOOPBACK
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    with opener.open(request, timeout=timeout) as answer:
        return json.loads(answer.read())
