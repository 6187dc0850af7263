"""Defenses of a user's own."""

from collections.abc import Sequence
from typing import Any

from workers.environments.agentdojo.defenses import AbortEpisode, Defense, Exchange, ToolOutput


class Careful(Defense):
    def __init__(self, words: list[str], patience: int = 1000) -> None:
        self.words = words
        self.patience = patience

    def system_message(self, message: str) -> str:
        return message + " Be careful."

    def filter_tools(self, tools: Sequence[Any], answer: str | None, exchange: Exchange) -> list[Any]:
        return [tool for tool in tools if tool.name != "update_password"]

    async def tool_result(self, output: ToolOutput, exchange: Exchange) -> None:
        if not any(word in output.content for word in self.words):
            return
        exchange.notes["hits"] = exchange.notes.get("hits", 0) + 1
        if exchange.notes["hits"] >= self.patience:
            raise AbortEpisode(f"stopped at {output.tool}, asked to {exchange.task[:15]}")
        output.content = "<withheld>"


class Broken(Defense):
    def __init__(self, hook: str) -> None:
        self.hook = hook

    def system_message(self, message: str) -> str:
        return self._maybe("system_message", message)

    def filter_tools(self, tools: Sequence[Any], answer: str | None, exchange: Exchange) -> Sequence[Any]:
        return self._maybe("filter_tools", tools)

    async def tool_result(self, output: ToolOutput, exchange: Exchange) -> None:
        self._maybe("tool_result", None)

    def reminder(self, exchange: Exchange) -> str | None:
        return self._maybe("reminder", None)

    def _maybe(self, hook: str, value: Any) -> Any:
        if hook == self.hook:
            raise RuntimeError("it does not work")
        return value


class Half(Defense):
    """Keeps every other tool of those that are left."""

    def filter_tools(self, tools, answer, exchange):
        return list(tools)[1::2]


class Silent(Defense):
    """Has a question that says nothing."""

    question = ""


class Backwards(Defense):
    """Offers the tools that are left in the opposite order."""

    def filter_tools(self, tools, answer, exchange):
        return list(tools)[::-1]


class Unclear(Defense):
    """Has a question that is no text."""

    question = 5  # type: ignore[assignment]
