"""The openai package's client, with a short way for the requests that a worker makes by the thousand."""

from collections.abc import Callable
from typing import Any

import aiohttp
import httpx
from openai import AsyncOpenAI
from pydantic_core import to_json
from yarl import URL

from workers.policy.refusals import classify_refusal
from workers.policy.transport import PolicyTransport


class PolicyConnection(AsyncOpenAI):
    """The package's own client, but that the first try of a plain request goes straight to the transport.

    To build a request and to take its answer apart, the package and httpx spend more on a worker's core than
    the rest of a turn costs. What may pass is the package's to try again, and all that fails its to word.

    Args:
        key: The API's key.
        base_url: The API's root.
        retries: Tries after the first.
        timeout: Seconds that an answer may take.
        connect: Seconds that one connection may take.
        trust_env: Whether to heed the environment's proxies and certificates.
        on_answer: Is shown every plain request's answer.
    """

    def __init__(
        self,
        *,
        key: str,
        base_url: str,
        retries: int,
        timeout: float,
        connect: float,
        trust_env: bool,
        on_answer: Callable[[httpx.Response], None] = lambda _: None,
    ) -> None:
        self._on_answer = on_answer
        self._transport = PolicyTransport(trust_env=trust_env)
        limits = httpx.Timeout(timeout, connect=connect)
        client: Any = httpx.AsyncClient(transport=self._transport, timeout=limits, trust_env=trust_env)
        # The package takes httpx's client, though its types name another.
        super().__init__(
            api_key=key, base_url=base_url, max_retries=retries, timeout=timeout, http_client=client
        )
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect, sock_read=timeout)
        encodings = {"Accept-Encoding": "gzip, deflate"}  # which httpx can always undo
        headers: dict[str, Any] = {**self.default_headers, **self.auth_headers, **encodings}
        self._plain = [(name, value) for name, value in headers.items() if isinstance(value, str)]
        self._urls: dict[str, URL] = {}

    async def post(self, path: str, *, cast_to: Any, **options: Any) -> Any:
        """See the package. Raises what it raises."""
        if cast_to is not httpx.Response or {name for name, given in options.items() if given} != {"body"}:
            return await super().post(path, cast_to=cast_to, **options)
        body = to_json(options["body"], inf_nan_mode="constants")  # four times as fast as json.dumps
        url = self._url(path)
        try:
            answer: Any = await self._transport.send("POST", url, self._plain, body, self._timeout)
            if answer.is_success:
                self._on_answer(answer)
                return answer
            answer.request = httpx.Request("POST", str(url))
            if not self._should_retry(answer):
                raise self._make_status_error_from_response(answer)
        except httpx.TransportError:
            pass
        again: Any = {"max_retries": max(0, self.max_retries - 1)}
        answer = await super().post(path, cast_to=cast_to, body=options["body"], options=again)
        self._on_answer(answer)
        return answer

    def _should_retry(self, response: Any) -> bool:
        """Whether the package tries again by itself: not where it depends on what the refusal says."""
        try:
            error = self._make_status_error_from_response(response)
        except RuntimeError:  # it has no request, and so no error
            return super()._should_retry(response)
        return classify_refusal(error) is None and super()._should_retry(response)

    def _url(self, path: str) -> URL:
        if path not in self._urls:
            self._urls[path] = URL(str(self._prepare_url(path)), encoded=True)
        return self._urls[path]
