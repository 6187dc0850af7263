"""What a user brings along, by import path: a task suite or an attack of their own."""

import importlib
import sys
from typing import Any

from sandbox_images.tool_host.toolset import ToolsetError


def is_import_path(name: str) -> bool:
    """Whether a name is an import path, `package.module:name`, and not one of AgentDojo's own names."""
    return ":" in name


def add_import_folder(folder: str | None) -> None:
    """Adds a folder that modules are found in, after everything that is installed."""
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)


def import_object(path: str) -> Any:
    """Imports the object that an import path leads to.

    Raises:
        ToolsetError: It leads nowhere, or the module does not import.
    """
    module_name, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a user's module may raise anything when it is imported
        raise ToolsetError(f"{path} cannot be imported here: {type(error).__name__}: {error}") from error
