"""Tool calls in a dataset's prompts, as their author wrote them: without what Arrow has filled in."""

from collections.abc import Mapping
from typing import Any, cast

from workers.environments.tool_schemas import drop_nulls


def drop_arrow_arguments(row: dict[str, Any]) -> dict[str, Any]:
    """The same row; a call in its prompt whose arguments are a mapping has no argument that is null.

    Arrow gives all mappings of a column the keys of all others, null where a row had none of that name. A
    null that was meant can't be told from those. The row itself stays as it is.

    Args:
        row: A task.
    """
    prompt: Any = row.get("prompt")
    if not isinstance(prompt, list):
        return row
    messages = cast(list[Any], prompt)
    made = [_drop_from_message(message) for message in messages]
    return {**row, "prompt": made} if any(a is not b for a, b in zip(made, messages, strict=True)) else row


def _drop_from_message(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    fields = cast(Mapping[str, Any], message)
    calls: Any = fields.get("tool_calls")
    if not isinstance(calls, list):
        return fields
    given = cast(list[Any], calls)
    made = [_drop_from_call(call) for call in given]
    is_changed = any(a is not b for a, b in zip(made, given, strict=True))
    return {**fields, "tool_calls": made} if is_changed else fields


def _drop_from_call(call: Any) -> Any:
    fields = cast(Mapping[str, Any], call if isinstance(call, Mapping) else {})
    given: Any = fields.get("function")
    function = cast(Mapping[str, Any], given if isinstance(given, Mapping) else {})
    arguments: Any = function.get("arguments")
    if not isinstance(arguments, Mapping):
        return cast(Any, call)
    return {**fields, "function": {**function, "arguments": drop_nulls(arguments)}}
