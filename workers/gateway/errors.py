"""What the gateway refuses, for each dialect to word in its own form."""

from dataclasses import dataclass
from typing import Literal

Refusal = Literal["invalid", "key", "route", "too_large", "limit", "overlong", "refused", "unavailable"]

STATUS: dict[Refusal, int] = {
    "invalid": 400,
    "key": 401,
    "route": 404,
    "too_large": 413,
    "limit": 403,
    "overlong": 400,
    "refused": 400,
    "unavailable": 503,
}
"""HTTP status of each refusal. None of those but the last is one that an SDK tries again."""


@dataclass
class GatewayError(Exception):
    """A request is answered with an error, which the agent reads.

    Args:
        kind: What is wrong.
        message: The same in words.
    """

    kind: Refusal
    message: str

    def __str__(self) -> str:
        return self.message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.kind]
