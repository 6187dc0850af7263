"""verifiers' classic error classes, which tell its loop whose failure an error is.

They are the bases of errors of ours, which every process knows: a driver, each command, each worker. Most of
these never play a classic environment, and to import the module as any other would import all of the classic
API first, with the clients of every provider: 1.7 of the 2.6 CPU seconds that `cluster.run` took to import.
Its file, which imports nothing, is therefore run alone, and is the module when the rest of that API needs it.

A worker whose verifiers has no classic API has stand-ins: our own errors need bases there, too.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

_NAME = "verifiers.legacy.errors"


class _ReadyModule(MetaPathFinder, Loader):
    """Has an import of the module find the one that there is, which its package is then told of."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self, origin=self._module.__file__) if fullname == _NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """It has been executed."""


def _load_alone() -> ModuleType | None:
    """The module, without what importing its package brings along; None: this verifiers has none."""
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = find_spec("verifiers")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "legacy", "errors.py")
        spec = spec_from_file_location(_NAME, file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            sys.meta_path.insert(0, _ReadyModule(module))
            spec.loader.exec_module(module)
            return module
    return None


if TYPE_CHECKING:
    from verifiers.legacy.errors import Error as Error
    from verifiers.legacy.errors import InfraError as InfraError
    from verifiers.legacy.errors import ModelError as ModelError
    from verifiers.legacy.errors import OverlongPromptError as OverlongPromptError
    from verifiers.legacy.errors import SandboxError as SandboxError
elif (_module := _load_alone()) is not None:
    Error = _module.Error
    InfraError = _module.InfraError
    ModelError = _module.ModelError
    OverlongPromptError = _module.OverlongPromptError
    SandboxError = _module.SandboxError
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
