"""JSON text for the records, as strict readers take it."""

import json
import math
from typing import Any, cast


def json_text(value: Any) -> str:
    """A value as JSON text; of numbers that JSON can't say, the text `NaN`, `Infinity` or `-Infinity`.

    Tools may take and keep such numbers: Python's own parser reads them in a policy's arguments.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_sayable(value), allow_nan=False)


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(inner) for key, inner in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_sayable(inner) for inner in cast(list[Any], value)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
