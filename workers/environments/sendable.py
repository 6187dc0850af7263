"""Messages that can be sent: text that no UTF-8 can hold, half of a surrogate pair, is mended first."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel


def replace_unsendable(messages: Any, known: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """The same messages, with U+FFFD for what is in their text but in no UTF-8; themselves if there is none.

    A tool that reads a file byte by byte, or cuts a text in the middle of an emoji, gives such text, and a
    policy cannot be sent it. What was sent is what is on record.

    Args:
        messages: A conversation, or a bare string.
        known: Messages that were looked at before and what they came to, by their id; these, too, afterwards.
    """
    known = {} if known is None else known
    if isinstance(messages, str):
        return clean_text(messages)
    if not isinstance(messages, list):
        return messages
    made: list[Any] = []
    for message in cast(list[Any], messages):
        if id(message) not in known:
            new = replace_unsendable_message(message)
            known[id(message)] = message, new
            known[id(new)] = new, new
        made.append(known[id(message)][1])
    return made


def clean_text(text: str) -> str:
    """Text as UTF-8 can hold it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def replace_unsendable_message(message: Any) -> Any:
    """`replace_unsendable` for one message."""
    own: Any = getattr(message, "__dict__", None)
    is_mapping = isinstance(message, Mapping)
    if not is_mapping and not isinstance(own, Mapping):
        return message
    fields = cast(Mapping[str, Any], message if is_mapping else own)
    changed: dict[str, Any] = {}
    for name, value in fields.items():
        new = clean_value(value)
        if new is not value:
            changed[name] = new
    if not changed:
        return message
    if isinstance(message, BaseModel):
        return message.model_copy(update=changed)
    return {**cast(dict[str, Any], message), **changed}


def clean_value(value: Any) -> Any:
    """The value, or, where text in it changes, another."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        parts = cast(list[Any], value)
        new = [clean_value(part) for part in parts]
        return parts if all(a is b for a, b in zip(new, parts, strict=True)) else new
    if isinstance(value, (dict, BaseModel)):
        return replace_unsendable_message(cast(Any, value))
    return value
