"""How requests to a policy travel: httpx's interface, for the openai package, over aiohttp's connections."""

from collections.abc import Iterable

import aiohttp
import httpx
from yarl import URL

_KEEP_ALIVE_SECONDS = 30.0
"""Seconds for which an idle connection is kept."""


class PolicyTransport(httpx.AsyncBaseTransport):
    """Many requests at once to one server, at a cost that does not grow with how many there are.

    httpx's own pool looks at each of its connections for every request, with a system call each: with 64
    requests in flight that is half of what a worker spends on a turn. Answers are read whole.

    Args:
        trust_env: Whether to heed the environment's proxies and certificates.
    """

    def __init__(self, *, trust_env: bool) -> None:
        self._trust_env = trust_env
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, and reads its answer.

        Raises:
            httpx.TransportError: There is none; the subclass says why.
        """
        limits = request.extensions.get("timeout", {})
        timeout = aiohttp.ClientTimeout(sock_connect=limits.get("connect"), sock_read=limits.get("read"))
        body = await request.aread()
        url = URL(str(request.url), encoded=True)
        answer = await self.send(request.method, url, request.headers.multi_items(), body, timeout)
        answer.request = request
        return answer

    async def send(
        self,
        method: str,
        url: URL,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        timeout: aiohttp.ClientTimeout,
    ) -> httpx.Response:
        """Like `handle_async_request`, of what a request is made of.

        Raises:
            httpx.TransportError: There is no answer; the subclass says why.
        """
        if self._session is None:  # made here, for it belongs to the event loop that it is used on
            self._session = self._open_connection()
        try:
            async with self._session.request(
                method,
                url,
                headers=list(headers),
                data=body or None,
                allow_redirects=False,
                timeout=timeout,
            ) as answer:
                read = await answer.read()
        except aiohttp.ConnectionTimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(str(error)) from error
        except aiohttp.InvalidURL as error:
            raise httpx.UnsupportedProtocol(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error
        return httpx.Response(answer.status, headers=answer.raw_headers, content=read)

    async def aclose(self) -> None:
        """Ends all connections."""
        if self._session is not None:
            await self._session.close()

    def _open_connection(self) -> aiohttp.ClientSession:
        context = httpx.create_ssl_context(trust_env=self._trust_env)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS, ssl=context),
            trust_env=self._trust_env,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # httpx does that
        )
