"""verifiers' classic error classes, which tell its loop whose failure an error is.

A worker whose verifiers has no classic API has stand-ins: our own errors need bases there, too.
"""

from importlib import import_module
from typing import TYPE_CHECKING


def _is_classic_api_there() -> bool:
    try:
        import_module("verifiers.legacy.errors")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "verifiers":
            return False
        raise
    return True


if TYPE_CHECKING or _is_classic_api_there():
    from verifiers.legacy.errors import Error as Error
    from verifiers.legacy.errors import InfraError as InfraError
    from verifiers.legacy.errors import ModelError as ModelError
    from verifiers.legacy.errors import OverlongPromptError as OverlongPromptError
    from verifiers.legacy.errors import SandboxError as SandboxError
else:

    class Error(Exception):
        """An error that an episode ends with."""

    class ModelError(Error):
        """The policy failed."""

    class OverlongPromptError(Error):
        """A prompt is longer than the policy's context."""

    class InfraError(Error):
        """What an episode is played with failed."""

    class SandboxError(InfraError):
        """A sandbox failed."""
