"""What a config may hold: only what its copy in a run's folder gives back unchanged."""

import math
from datetime import date, datetime, time
from pathlib import PurePath
from typing import Any, cast

from pydantic import BaseModel

from cluster.config import RunConfig
from cluster.errors import ConfigError

_MAX_DEPTH = 64
"""Levels to which values may be nested; what contains itself would have no end."""
_MAX_LISTED = 10
"""Complaints that an error lists."""


def check_values(config: RunConfig) -> None:
    """Sees that a config is the same when it is read again from a run's folder, and where it travels as JSON.

    A run's resumption reads its config there; requests to the policy and a sandbox's toolset get parts of it
    as JSON. What either would change (a date, a number as a key, a tuple) would have the resumption play
    something else than the run did.

    Raises:
        ConfigError: Something would not be; names the key, what was given, and what to give in its place.
    """
    complaints = [f"  {complaint}" for complaint in _check_model(config, "")]
    if complaints:
        more = [f"  and {len(complaints) - _MAX_LISTED} more"] if len(complaints) > _MAX_LISTED else []
        listed = "\n".join([*complaints[:_MAX_LISTED], *more])
        raise ConfigError(
            f"the config has values that its copy in the run's folder could not store:\n{listed}"
        )


def _check_model(model: BaseModel, path: str) -> list[str]:
    return [
        complaint for name, value in model for complaint in _check_field(value, f"{path}.{name}".strip("."))
    ]


def _check_field(value: Any, path: str) -> list[str]:
    """A field's own type has seen to its value, but for what it holds of any kind, and for odd texts."""
    if isinstance(value, BaseModel):
        return _check_model(value, path)
    if isinstance(value, PurePath):
        return _check_value(str(value), path, 0)
    if isinstance(value, float) and math.isinf(value):
        return []  # of a limit that is none, which YAML has a word for
    return _check_value(value, path, 0)


def _check_value(value: Any, path: str, depth: int) -> list[str]:
    if depth > _MAX_DEPTH:
        return [
            f"{path}: is nested more than {_MAX_DEPTH} levels deep, or contains itself; give fewer levels"
        ]
    kind = cast(type[Any], type(value))
    if value is None or kind in (bool, int):
        return []
    if kind is str:
        return _check_text(cast(str, value), path)
    if kind is float:
        return (
            []
            if math.isfinite(cast(float, value))
            else [f"{path}: got {value}; {_suggest_replacement(value)}"]
        )
    if isinstance(value, BaseModel):
        return _check_model(value, path)
    if kind is list:
        parts = enumerate(cast(list[Any], value))
        return [c for i, part in parts for c in _check_value(part, f"{path}.{i}", depth + 1)]
    if kind is dict:
        return [
            complaint
            for key, part in cast(dict[Any, Any], value).items()
            for complaint in [*_check_key(key, path), *_check_value(part, f"{path}.{key}", depth + 1)]
        ]
    return [f"{path}: got {value!r}, of type {kind.__name__}; {_suggest_replacement(value)}"]


def _check_key(key: Any, path: str) -> list[str]:
    if type(key) is str:
        return _check_text(key, f"{path}: the key")
    asked = _YAML_WORDS.get(key, str(key)) if isinstance(key, bool) or key is None else str(key)
    return [
        f"{path}: got the key {key!r}, of type {type(key).__name__}; keys must be text: put it in quotes, "
        f'"{asked}"'
    ]


def _check_text(text: str, path: str) -> list[str]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return [f"{path}: got {text!r}, which is not valid Unicode text: {error.reason}; give valid text"]
    return []


_YAML_WORDS: dict[Any, str] = {True: "yes", False: "no", None: "null"}
"""What was probably written for a key that YAML takes for none."""


def _suggest_replacement(value: Any) -> str:
    """What to give in place of a value that is not kept."""
    match value:
        case datetime() | date() | time():
            return f'give text, "{value.isoformat()}", and have the environment read it'
        case float():
            return "give a finite number, null or text"
        case tuple() | set() | frozenset():
            return "give a list"
        case bytes() | bytearray():
            return "give text, for example in base64"
        case str() | PurePath():
            return f"give text, {str(value)!r}"
        case _:
            return "give text, a number, true, false, null, a list or a mapping of these"
