"""What `yaml.safe_dump` writes, put together from pieces that it has written before.

What tools give is written down as YAML by PyYAML's pure-Python emitter, which goes through every string
character by character; it is half of what a tool call costs. Most strings are the environment's own: a
session inherits what the tool host has had written of them. (libyaml's emitter is quick, but it breaks long
lines elsewhere, and a policy is to read what AgentDojo would have it read.)
"""

import datetime
from collections.abc import Callable
from functools import cache
from typing import Any

import yaml
from agentdojo.strenum import StrEnum

_type_of: Callable[[Any], type[Any]] = type
_SCALARS = frozenset({str, int, float, bool, type(None), datetime.datetime, datetime.date})
_LONGEST_KEY = 100
"""Characters of a key as it is written; PyYAML gives a line of its own to one of 128."""
_leaves: dict[tuple[type, Any, int, int], str] = {}


class _Unusual(Exception):
    """PyYAML has to write the whole of it."""


def dump(value: Any) -> str:
    """The YAML text of a value, as `yaml.safe_dump` has it.

    Raises:
        yaml.YAMLError: It is nothing that `yaml.safe_dump` can write.
    """
    if not value or type(value) not in (dict, list):
        return yaml.safe_dump(value)
    try:
        return _Writer().block(value, 0) + "\n"
    except _Unusual:
        return yaml.safe_dump(value)


class _Writer:
    """Writes one document of mappings with plain keys, sequences and scalars, without aliases."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def block(self, value: Any, indent: int) -> str:
        """A collection that is not empty; its first line without the indent."""
        self._see(value)
        margin = "\n" + " " * indent
        if _type_of(value) is dict:
            return margin.join([self._pair(key, value[key], indent) for key in _in_order(value)])
        return margin.join(["-" + self._item(item, indent) for item in value])

    def _pair(self, key: str, value: Any, indent: int) -> str:
        key = _key(key) + ":"
        value, kind = _plain(value)
        if kind in _SCALARS:
            return key + self._leaf(kind, value, indent, indent + len(key))
        if kind not in (dict, list):
            raise _Unusual
        if not value:
            return key + (" {}" if kind is dict else " []")
        inner = indent + 2 if kind is dict else indent
        return f"{key}\n{' ' * inner}{self.block(value, inner)}"

    def _item(self, value: Any, indent: int) -> str:
        value, kind = _plain(value)
        if kind in _SCALARS:
            return self._leaf(kind, value, indent, indent + 1)
        if kind not in (dict, list):
            raise _Unusual
        return " " + (self.block(value, indent + 2) if value else "{}" if kind is dict else "[]")

    def _leaf(self, kind: type, value: Any, indent: int, column: int) -> str:
        """A scalar with the space before it; `column` is where the key's colon or the item's dash ends."""
        if kind is datetime.datetime or kind is datetime.date:
            self._see(value)
        known = (kind, value if kind is str else repr(value), indent, column)
        text = _leaves.get(known)
        if text is None:
            text = _leaves[known] = _written(value, indent, column)
        return text

    def _see(self, value: Any) -> None:
        if id(value) in self._seen:  # PyYAML writes it once, with an anchor
            raise _Unusual
        self._seen.add(id(value))


def _plain(value: Any) -> tuple[Any, type]:
    """A value and its type; of a member of AgentDojo's enums, which are written as texts, the text."""
    return (value.value, str) if isinstance(value, StrEnum) else (value, _type_of(value))


def _in_order(mapping: dict[Any, Any]) -> list[str]:
    if not all(type(key) is str for key in mapping):
        raise _Unusual
    return sorted(mapping)


@cache
def _key(key: str) -> str:
    text, _, rest = yaml.safe_dump({key: None}).rpartition(": null\n")
    if rest or not text or "\n" in text or text.startswith("?") or len(text) > _LONGEST_KEY:
        raise _Unusual
    return text


def _written(value: Any, indent: int, column: int) -> str:
    """What PyYAML writes of a scalar in a block of this indent after this column."""
    key = "k" * (column - indent - 1)
    document: Any = {key: value} if key else {"k": [value]}
    for _ in range(indent // 2):
        document = {"k": document}
    before = "\n" + " " * indent + (key + ":" if key else "-")
    return ("\n" + yaml.safe_dump(document)).partition(before)[2].removesuffix("\n")
