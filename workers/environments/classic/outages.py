"""Which errors say that a service an environment asks is down for now, by whatever client it was asked."""

import socket
from typing import Any, Literal

import verifiers as vf

_OUTAGE_STATUSES = frozenset({408, 425, 429, 502, 503, 504, 529})
_CONNECTION_ERRORS = (ConnectionRefusedError, ConnectionResetError, ConnectionAbortedError, socket.gaierror)
_CONNECTION_ERROR_NAMES = frozenset(
    {
        "APIConnectionError",
        "APITimeoutError",
        "ClientConnectionError",
        "ClientConnectorError",
        "ConnectError",
        "ConnectTimeout",
        "ReadError",
        "ReadTimeout",
        "RemoteProtocolError",
        "ServerDisconnectedError",
        "ServiceUnavailable",
        "MaxRetryError",
    }
)
"""Classes of openai, anthropic, httpx, aiohttp, requests and urllib3, none of which need be installed."""


def classify_outage(error: BaseException) -> Literal["down", "failing"] | None:
    """Classifies whether an error, or its cause, says that a service is down, or fails perhaps on this alone.

    Down: a connection that is refused or breaks, 429, 503 and the like. Failing: a status of 500.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    failing = False
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, vf.SandboxError):
            return None  # a session that is gone does not come back
        if (
            isinstance(cause, (*_CONNECTION_ERRORS, vf.InfraError))
            or _http_status(cause) in _OUTAGE_STATUSES
            or _outage_by_name(cause)
        ):
            return "down"
        failing = failing or _http_status(cause) == 500
        cause = cause.__cause__ or cause.__context__
    return "failing" if failing else None


def _outage_by_name(error: BaseException) -> bool:
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ in _CONNECTION_ERROR_NAMES or (
        kind.__name__ == "ConnectionError" and package == "requests"
    )


def _http_status(error: BaseException) -> Any:
    """The HTTP status that an error of some client is about, if it is about one."""
    for where in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            status = getattr(where, name, None)
            if isinstance(status, int):
                return status
    return None
