"""The conversations of an episode, as a model that learns from it is to see them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.records import EpisodeRecord, Message


@dataclass(frozen=True)
class Conversation:
    """Messages of which each prompt goes on from the one before."""

    messages: list[Message]
    """All of them; the last one is the policy's."""
    given: int
    """How many of them were there before the policy's first action in it."""
    tools: list[dict[str, Any]]
    """The tools that the policy was offered: name, description and parameters of each."""


def conversations_of(episode: EpisodeRecord) -> list[Conversation]:
    """An episode's conversations, what followed the last action of each left out.

    A step whose prompt is that of the step before it in its branch, that step's action, and more, goes on in
    the same conversation. Any other begins a new one: the environment has rewritten the conversation, or it
    is another one of an agent's. An action that is in several conversations is learned from in the first.
    """
    made: list[Conversation] = []
    latest: dict[int | None, int] = {}
    for step in episode.steps:
        messages = [*step.prompt_messages, step.action]
        place = latest.get(step.branch)
        before = made[place] if place is not None else None
        if place is not None and before is not None and _begins_with(step.prompt_messages, before.messages):
            made[place] = Conversation(messages, before.given, before.tools)
            continue
        latest[step.branch] = len(made)
        made.append(Conversation(messages, len(step.prompt_messages), episode.tools_of(step)))
    return made


def _begins_with(messages: Sequence[Message], beginning: Sequence[Message]) -> bool:
    return len(messages) >= len(beginning) and all(map(same_message, messages, beginning))


def same_message(one: Message, other: Message) -> bool:
    """Whether two messages say the same; the ids of tool calls may differ."""
    return (
        one.role == other.role
        and (one.content or "") == (other.content or "")
        and [(call.function.name, call.function.arguments) for call in one.tool_calls or []]
        == [(call.function.name, call.function.arguments) for call in other.tool_calls or []]
    )


def to_openai_message(message: Message, *, reasoning: bool = False) -> dict[str, Any]:
    """A message in OpenAI's shape, without its nulls.

    Args:
        message: The message.
        reasoning: Whether its reasoning goes with it, as `reasoning_content`, which OpenAI does not know.
    """
    made: dict[str, Any] = {"role": message.role}
    if message.content is not None or not message.tool_calls:
        made["content"] = message.content or ""
    if reasoning and message.reasoning_content:
        made["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        made["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def to_openai_tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools in OpenAI's shape."""
    return [{"type": "function", "function": tool} for tool in tools]


def parse_arguments(text: str) -> Any:
    """A call's arguments as data; as the policy wrote them where they are no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
