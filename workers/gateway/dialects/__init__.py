"""The dialects that agents speak, by the route that they ask."""

from workers.gateway.dialects.base import Dialect
from workers.gateway.dialects.chat import ChatDialect
from workers.gateway.dialects.messages import MessagesDialect
from workers.gateway.dialects.responses import ResponsesDialect

DIALECTS: tuple[Dialect, ...] = (ChatDialect(), ResponsesDialect(), MessagesDialect())
"""All of them; each is one file."""

__all__ = ["DIALECTS", "Dialect"]
