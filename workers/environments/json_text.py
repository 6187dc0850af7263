"""JSON text for the records, as strict readers take it."""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel


def json_text(value: Any) -> str:
    """Returns a value as JSON text; numbers that JSON can't say become `"NaN"`, `"Infinity"`, `"-Infinity"`.

    What is no JSON at all stands as its own text.

    Tools may take and keep such numbers: Python's own parser reads them in a policy's arguments.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_escape_unsupported(value, 0), allow_nan=False)


_MAX_DEPTH = 64
"""Levels of nesting below which a value stands as its text: it may hold itself."""


def _escape_unsupported(given: Any, depth: int) -> Any:
    value: Any = given
    if depth > _MAX_DEPTH:
        return repr(cast(Any, type(value)))
    if isinstance(value, Mapping):
        found = cast(Mapping[Any, Any], value)
        return {str(key): _escape_unsupported(inner, depth + 1) for key, inner in found.items()}
    if isinstance(value, BaseModel):
        return _escape_unsupported(value.__dict__, depth + 1)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_escape_unsupported(inner, depth + 1) for inner in cast(list[Any], value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, float):
        return float(value)
    made = getattr(value, "tolist", None) or getattr(value, "item", None)  # numpy's and torch's
    if callable(made):
        try:
            return _escape_unsupported(made(), depth + 1)
        except Exception:  # noqa: BLE001 - an object of anybody's
            return repr(cast(Any, type(value)))
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - an object of anybody's
        return repr(cast(Any, type(value)))
