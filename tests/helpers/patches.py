"""JSON patches as sessions give them, which give none where they do not tell what has changed."""

from typing import Any

import jsonpatch


def patched(state: Any, patch: Any) -> Any:
    """The state with a patch applied to it, which there must be."""
    assert patch is not None
    return jsonpatch.apply_patch(state, patch)
