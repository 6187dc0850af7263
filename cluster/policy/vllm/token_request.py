"""A request by token ids, on its way from the ingress to a replica."""

from dataclasses import dataclass
from typing import Any

_FIRST_CHARACTER = 0x10000


@dataclass(frozen=True)
class TokenRequest:
    body: dict[str, Any]
    """What `/inference/v1/generate` takes."""

    @property
    def prompt(self) -> str:
        """A character per token id, for Ray's prefix-aware router, which compares the beginnings of texts."""
        return "".join(chr(_FIRST_CHARACTER + token) for token in self.body.get("token_ids") or [0])
