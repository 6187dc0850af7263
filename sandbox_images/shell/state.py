"""The workspace as the records have it: where the shell is, and the files with their text."""

import os
from typing import Any, ClassVar

from sandbox_images.shell.workspace import FileError, Workspace
from sandbox_images.tool_host.json_patch import Patch, diff

_MAX_FILES = 200
_MAX_PATH_BYTES = 64 * 1024
"""Most entries in a state, and bytes of their paths: of a workspace with more, the first by name."""
_MAX_TEXT_BYTES = 16 * 1024
_MAX_ALL_TEXT_BYTES = 128 * 1024
"""Bytes of a file, and of all files, whose text is in a state. Of others, only the size."""


class WorkspaceState:
    """Looks at a workspace again and again.

    Args:
        workspace: Which.
    """

    ID: ClassVar = "shell-empty-workspace"
    """Id of the base state: a workspace with nothing in it."""
    EMPTY: ClassVar[dict[str, Any]] = {"folder": ".", "files": {}}
    """That state."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._last: dict[str, Any] = self.EMPTY

    def patch(self, folder: str) -> Patch:
        """What changed since this was last called; at first, since the workspace was empty.

        Args:
            folder: The shell's working directory.
        """
        before, self._last = self._last, self.take(folder)
        return diff(before, self._last)

    def take(self, folder: str) -> dict[str, Any]:
        """The state now."""
        files: dict[str, Any] = {}
        room, room_for_paths = _MAX_ALL_TEXT_BYTES, _MAX_PATH_BYTES
        for entry in self._workspace.entries():
            path = _read_if_text(entry.path)
            room_for_paths -= len(path.encode())
            if len(files) == _MAX_FILES or room_for_paths < 0:
                break
            if entry.kind != "file":
                files[path] = {"kind": entry.kind}
                continue
            files[path] = {"kind": "file", "size": entry.size}
            if entry.size <= min(room, _MAX_TEXT_BYTES):
                try:
                    text = self._workspace.read_text(entry.path)
                except FileError:
                    continue
                room -= entry.size
                files[path]["text"] = text
        return {"folder": _read_if_text(os.path.relpath(folder, self._workspace.root)), "files": files}


def _read_if_text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
