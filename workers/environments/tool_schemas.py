"""Tools as they are sent to the policy, and put on record: with the nulls that were meant, and no others."""

from collections.abc import Mapping
from typing import Any, cast

_SCHEMA_MAP_KEYS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_SCHEMA_KEYS = frozenset(
    {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedProperties", "unevaluatedItems", "additionalItems"}
)
_SCHEMA_LIST_KEYS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_VALUE_KEYS = frozenset({"default", "const"})
"""Keywords of which null may be the value that is meant."""


def tool_fields(tool: Any, from_arrow: bool) -> dict[str, Any]:
    """Name, description and parameters of a tool, and `strict` where it is said.

    Args:
        tool: verifiers' tool.
        from_arrow: Whether it comes from a dataset's row. There, each tool has the keys of all others, too,
            which Arrow has filled up with null.
    """
    parameters = tool.parameters
    fields = {
        "name": tool.name,
        "description": tool.description,
        "parameters": drop_arrow_nulls(parameters) if from_arrow else parameters,
    }
    return fields if tool.strict is None else {**fields, "strict": tool.strict}


def comes_from_arrow(state: Any, row_is_arrow: bool) -> bool:
    """Whether a rollout's tools come from a row that Arrow has held as structs, and not as JSON text."""
    info: Any = state.get("info") if state is not None else None
    return row_is_arrow and isinstance(info, Mapping) and "tool_defs" in info


def drop_arrow_nulls(schema: Any) -> Any:
    """A JSON schema without the keys that are null and can't be meant to be.

    A default or a constant of null is meant where the schema lets the value be null; what lists hold is as it
    was, for Arrow adds nothing to them.
    """
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for name, value in cast(Mapping[str, Any], schema).items():
        if value is None:
            if name in _VALUE_KEYS and _allows_null(cast(Mapping[str, Any], schema)):
                kept[name] = None
        elif name in _SCHEMA_MAP_KEYS and isinstance(value, Mapping):
            parts = cast(Mapping[str, Any], value)
            kept[name] = {key: drop_arrow_nulls(part) for key, part in parts.items() if part is not None}
        elif name in _SCHEMA_KEYS:
            kept[name] = drop_arrow_nulls(value)
        elif name in _SCHEMA_LIST_KEYS and isinstance(value, list):
            kept[name] = [drop_arrow_nulls(part) for part in cast(list[Any], value)]
        else:
            kept[name] = value
    return kept


def _allows_null(schema: Mapping[str, Any]) -> bool:
    kind: Any = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind) or schema.get("nullable") is True:
        return True
    values: Any = schema.get("enum")
    if isinstance(values, list) and None in values:
        return True
    for choice in ("anyOf", "oneOf"):
        parts: Any = schema.get(choice)
        if isinstance(parts, list):
            inner = [
                cast(Mapping[str, Any], each) for each in cast(list[Any], parts) if isinstance(each, Mapping)
            ]
            return any(_allows_null(part) for part in inner)
    names = ("type", "enum", "$ref", "allOf", "properties")
    return all(schema.get(name) is None for name in names)


def drop_nulls(value: Any) -> Any:
    """A copy of a content part, whose keys are all meant to have a value."""
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        return {key: drop_nulls(inner) for key, inner in fields.items() if inner is not None}
    if isinstance(value, list):
        return [drop_nulls(inner) for inner in cast(list[Any], value)]
    return value
