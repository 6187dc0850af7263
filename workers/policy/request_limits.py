"""The limit on sampled tokens, under the name that a server heeds."""

import re
from typing import Any

import httpx
import openai

_OLD, _NEW = "max_tokens", "max_completion_tokens"
_NEW_NAME_HOSTS = ("api.openai.com", "openai.azure.com")
"""Servers that refuse the old name for some models, and both together for all."""
_REFUSED_NAME_WORDS = re.compile(
    r"unsupported|not supported|at the same time|both|unrecogni[sz]ed|unknown|unexpected|extra|not permitted"
    r"|cannot be (set|used)|only one|mutually|deprecated|not allowed|instead"
)


class TokenLimit:
    """Sends a limit under both names, until a server refuses one of them.

    Old servers pass the new name over without a word, and new ones refuse the old one.

    Args:
        base_url: The API's root.
    """

    def __init__(self, base_url: str) -> None:
        host = httpx.URL(base_url).host
        self.names: tuple[str, ...] = (_NEW,) if host.endswith(_NEW_NAME_HOSTS) else (_OLD, _NEW)
        """The names under which it is sent."""

    def apply(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a request with the limit under the names that the server takes."""
        limit = token_limit_of(sampling)
        rest = {name: value for name, value in sampling.items() if name not in (_OLD, _NEW)}
        return rest if limit is None else {**rest, **dict.fromkeys(self.names, limit)}

    def learn(self, error: openai.APIStatusError, sent: tuple[str, ...]) -> bool:
        """Heeds what a server says of the names.

        Args:
            error: A refusal.
            sent: The names that were sent.

        Returns:
            Whether the request is to be sent once more, under other names.
        """
        said = f"{error.message} {error.response.text[:2000]}".lower()
        if error.status_code not in (400, 422) or "max_" not in said or not _REFUSED_NAME_WORDS.search(said):
            return False
        if sent != self.names:  # another request has learned it meanwhile
            return True
        refused = _refused_name(said, error.param)
        if refused is None or refused not in sent:
            return False
        self.names = (_NEW,) if refused == _OLD else (_OLD,)
        return self.names != sent


def _refused_name(said: str, param: str | None) -> str | None:
    if param in (_OLD, _NEW):
        return param
    first = re.search(r"max_(completion_)?tokens", said)
    if first is None:
        return None
    if "same time" in said or "both" in said or "only one" in said:
        return _OLD
    return _NEW if first.group(1) else _OLD


def token_limit_of(sampling: dict[str, Any]) -> int | None:
    """The limit in the arguments of a request."""
    limit: Any = sampling.get(_OLD)
    return sampling.get(_NEW) if limit is None else limit


def is_limit_ignored(limit: int | None, sampled: int | None) -> bool:
    """Whether a server sampled more than the limit and what servers count differently at an answer's end."""
    return limit is not None and sampled is not None and sampled > limit * 1.05 + 4
