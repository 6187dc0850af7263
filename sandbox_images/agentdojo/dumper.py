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
_SCALAR_TYPES = frozenset({str, int, float, bool, type(None), datetime.datetime, datetime.date})
_MAX_KEY_LENGTH = 100
"""Characters of a key as it is written; PyYAML gives a line of its own to one of 128."""
_leaves: dict[tuple[type, Any, int, int], str] = {}


class _UnsupportedValue(Exception):
    """A value that this dumper does not support: PyYAML has to write the whole document."""


def dump_yaml(value: Any) -> str:
    """The YAML text of a value, as `yaml.safe_dump` has it.

    Raises:
        yaml.YAMLError: It is nothing that `yaml.safe_dump` can write.
    """
    if not value or type(value) not in (dict, list):
        return yaml.safe_dump(value)
    try:
        return _Writer().write_block(value, 0) + "\n"
    except _UnsupportedValue:
        return yaml.safe_dump(value)


class _Writer:
    """Writes one document of mappings with plain keys, sequences and scalars, without aliases."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def write_block(self, value: Any, indent: int) -> str:
        """A collection that is not empty; its first line without the indent."""
        self._check_no_alias(value)
        margin = "\n" + " " * indent
        if _type_of(value) is dict:
            return margin.join([self._write_pair(key, value[key], indent) for key in _sort_items(value)])
        return margin.join(["-" + self._write_item(item, indent) for item in value])

    def _write_pair(self, key: str, value: Any, indent: int) -> str:
        key = _write_key(key) + ":"
        value, kind = _plain_value(value)
        if kind in _SCALAR_TYPES:
            return key + self._write_scalar(kind, value, indent, indent + len(key))
        if kind not in (dict, list):
            raise _UnsupportedValue
        if not value:
            return key + (" {}" if kind is dict else " []")
        inner = indent + 2 if kind is dict else indent
        return f"{key}\n{' ' * inner}{self.write_block(value, inner)}"

    def _write_item(self, value: Any, indent: int) -> str:
        value, kind = _plain_value(value)
        if kind in _SCALAR_TYPES:
            return self._write_scalar(kind, value, indent, indent + 1)
        if kind not in (dict, list):
            raise _UnsupportedValue
        return " " + (self.write_block(value, indent + 2) if value else "{}" if kind is dict else "[]")

    def _write_scalar(self, kind: type, value: Any, indent: int, column: int) -> str:
        """A scalar with the space before it; `column` is where the key's colon or the item's dash ends."""
        if kind is datetime.datetime or kind is datetime.date:
            self._check_no_alias(value)
        known = (kind, value if kind is str else repr(value), indent, column)
        text = _leaves.get(known)
        if text is None:
            text = _leaves[known] = _dump_scalar(value, indent, column)
        return text

    def _check_no_alias(self, value: Any) -> None:
        if id(value) in self._seen:  # PyYAML writes it once, with an anchor
            raise _UnsupportedValue
        self._seen.add(id(value))


def _plain_value(value: Any) -> tuple[Any, type]:
    """A value and its type; of a member of AgentDojo's enums, which are written as texts, the text."""
    return (value.value, str) if isinstance(value, StrEnum) else (value, _type_of(value))


def _sort_items(mapping: dict[Any, Any]) -> list[str]:
    if not all(type(key) is str for key in mapping):
        raise _UnsupportedValue
    return sorted(mapping)


@cache
def _write_key(key: str) -> str:
    text, _, rest = yaml.safe_dump({key: None}).rpartition(": null\n")
    if rest or not text or "\n" in text or text.startswith("?") or len(text) > _MAX_KEY_LENGTH:
        raise _UnsupportedValue
    return text


def _dump_scalar(value: Any, indent: int, column: int) -> str:
    """What PyYAML writes of a scalar in a block of this indent after this column."""
    key = "k" * (column - indent - 1)
    document: Any = {key: value} if key else {"k": [value]}
    for _ in range(indent // 2):
        document = {"k": document}
    before = "\n" + " " * indent + (key + ":" if key else "-")
    return ("\n" + yaml.safe_dump(document)).partition(before)[2].removesuffix("\n")
