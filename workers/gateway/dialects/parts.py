"""The parts of messages that a policy can be given: text and pictures. Others are refused, never left out."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from workers.gateway.errors import GatewayError

IsTaken = Callable[[dict[str, Any]], bool]
"""Says whether a part of a kind has all that it needs; each kind that a policy can be given has one."""


def check_parts(content: Any, where: str, kinds: Mapping[str, IsTaken]) -> None:
    """Sees that a message holds nothing that would be left out on its way to the policy.

    Args:
        content: The message's content: text, or parts.
        where: What the agent's request calls it.
        kinds: The kinds of parts that its dialect has for text and pictures.

    Raises:
        GatewayError: It holds something else.
    """
    if not isinstance(content, list):
        return
    for index, part in enumerate(cast("list[Any]", content)):
        place = f"{where}[{index}]"
        if not isinstance(part, dict):
            raise GatewayError("invalid", f"{place}: a part must be an object, got {type(part).__name__}")
        fields = cast("dict[str, Any]", part)
        kind = str(fields.get("type"))
        if kind not in kinds:
            raise GatewayError(
                "invalid",
                f"{place}: a part of type {kind!r:.80} can't be given to the policy; send text or images",
            )
        if not kinds[kind](fields):
            raise GatewayError(
                "invalid",
                f"{place}: an image must come with its data, as a data: URL or in base64, or with a URL",
            )


def always(part: dict[str, Any]) -> bool:
    """Says that a part of text is taken as it is."""
    return True
