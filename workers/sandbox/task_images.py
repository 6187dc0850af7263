"""The images that tasks name in their rows."""

import json
from collections.abc import Mapping
from typing import Any, cast

IMAGE_KEY = "sandbox_image"
"""The key of a row's `info` by which a task names the image that it is played in."""


def image_of(row: Mapping[str, Any]) -> str | None:
    """The image that a task names in its row; None if it is played in the run's."""
    info: Any = row.get("info")
    if isinstance(info, str):
        info = json.loads(info)
    return cast("Mapping[str, Any]", info).get(IMAGE_KEY) if isinstance(info, Mapping) else None
