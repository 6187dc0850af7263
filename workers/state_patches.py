"""JSON patches (RFC 6902), by which records tell how an environment's state has changed."""

import json
from typing import Any

import jsonpatch

_library: Any = jsonpatch  # its types leave open what a state is


def apply_state_patch(state: Any, patch: str | None, *, in_place: bool = False) -> Any:
    """The state after a patch.

    Args:
        state: As it was before, as JSON has it.
        patch: A record's `state_patch` or `initial_state_patch`. None: nothing has changed.
        in_place: Whether `state` may be changed. If not, it stays as it was.

    Returns:
        Another state that shares nothing with it; `state` itself in place, or where nothing has changed.

    Raises:
        ValueError: This is no patch, or none of this state; names the library's error.
    """
    if not patch or patch == "[]":
        return state
    try:
        return _library.apply_patch(state, json.loads(patch), in_place=in_place)
    except (
        ValueError,
        LookupError,
        TypeError,
        _library.JsonPatchException,
        _library.JsonPointerException,
    ) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
