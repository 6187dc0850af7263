"""ShareGPT's JSON lines, as LLaMA-Factory reads them.

A turn is `human`, `gpt`, `function_call` or `observation`. The format has no place for text beside a tool
call: reasoning and text stand before the calls, in `<think>` marks, where there are some.

Source: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cluster.export.conversations import Conversation, parse_arguments
from cluster.export.selection import Preference
from workers.records import Message


def sharegpt_lines(conversations: Iterable[Conversation]) -> Iterator[str]:
    """A line of `conversations`, `system` and `tools` per conversation."""
    for conversation in conversations:
        yield _to_line(conversation.messages, conversation.tools)


def sharegpt_preference_lines(pairs: Iterable[Preference]) -> Iterator[str]:
    """A line per pair: the conversation until they part, and the action of each."""
    for pair in pairs:
        chosen, rejected = (_to_turns(messages[:1])[0] for messages in (pair.chosen, pair.rejected))
        yield _to_line(pair.prompt, pair.tools, chosen=chosen, rejected=rejected)


def _to_line(messages: Sequence[Message], tools: list[dict[str, Any]], **more: Any) -> str:
    system = [message.content or "" for message in messages if message.role in ("system", "developer")]
    row = {
        "conversations": _to_turns(messages),
        "system": "\n\n".join(system),
        "tools": json.dumps(tools, ensure_ascii=False) if tools else "",
        **more,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _to_turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Turns that alternate: what is said twice in a row is put together."""
    turns: list[dict[str, str]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        turn = _to_turn(message)
        if turns and turns[-1]["from"] == turn["from"]:
            turns[-1]["value"] += f"\n\n{turn['value']}"
        else:
            turns.append(turn)
    return turns


def _to_turn(message: Message) -> dict[str, str]:
    if message.role == "tool":
        return {"from": "observation", "value": message.content or ""}
    if message.role != "assistant":
        return {"from": "human", "value": message.content or ""}
    content = message.content or ""
    if not message.tool_calls:
        thought = f"<think>\n{message.reasoning_content}\n</think>\n\n" if message.reasoning_content else ""
        return {"from": "gpt", "value": thought + content}
    calls = [
        {"name": call.function.name, "arguments": parse_arguments(call.function.arguments)}
        for call in message.tool_calls
    ]
    text = "\n\n".join(part for part in (message.reasoning_content, content.strip()) if part)
    thought = f"<think>\n{text}\n</think>\n\n" if text else ""
    made = json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)
    return {"from": "function_call", "value": thought + made}
