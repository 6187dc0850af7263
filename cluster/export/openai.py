"""OpenAI's JSON lines for fine-tuning and for preference fine-tuning."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cluster.export.conversations import Conversation, to_openai_message, to_openai_tools
from cluster.export.selection import Preference


def openai_lines(conversations: Iterable[Conversation]) -> Iterator[str]:
    """A line of `messages` and `tools` per conversation; what the policy did not sample has weight 0.

    Source: https://platform.openai.com/docs/guides/supervised-fine-tuning
    """
    for conversation in conversations:
        messages = [to_openai_message(message) for message in conversation.messages]
        for message in messages[: conversation.given]:
            if message["role"] == "assistant":
                message["weight"] = 0
        yield _to_line({"messages": messages, **_tools_of(conversation.tools)})


def openai_preference_lines(pairs: Iterable[Preference]) -> Iterator[str]:
    """A line per pair: the conversation until they part, and the action of each.

    Source: https://platform.openai.com/docs/guides/direct-preference-optimization
    """
    for pair in pairs:
        yield _to_line(
            {
                "input": {
                    "messages": [to_openai_message(message) for message in pair.prompt],
                    **_tools_of(pair.tools),
                },
                "preferred_output": [to_openai_message(pair.chosen[0])],
                "non_preferred_output": [to_openai_message(pair.rejected[0])],
            }
        )


def _tools_of(tools: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tools": to_openai_tools(tools), "parallel_tool_calls": True} if tools else {}


def _to_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
