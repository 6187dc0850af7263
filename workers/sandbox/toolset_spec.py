"""What an environment says of the tools that it wants in a sandbox."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolsetSpec:
    """What an environment wants loaded in its sandbox."""

    image: str
    """Folder under `sandbox_images/` that the image is built from."""
    toolset: str
    """Import path of the toolset class, `package.module:Class`."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """Keyword arguments of the toolset class."""
    session_users: bool = False
    """Whether its sessions are to have users of their own where `sandbox.session_users` does not say."""
    task_images: tuple[str, ...] = ()
    """Images that single tasks name in their rows (`info.sandbox_image`), as far as the environment knows."""
    own_image: str | None = None
    """An image of the user's that the environment's arguments name, in place of `image`; `sandbox.image` wins
    over it."""
    taken_by_environment: bool = False
    """Whether the environment takes sessions itself, when and as often as it needs one, in place of being
    given one for each episode."""
    writable_folders: tuple[str, ...] = ()
    """Folders that its programs write to, which are held in memory where the root file system can't be
    written to."""
