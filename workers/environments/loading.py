"""Environments from where they are: ours, an installed module, or a file of a user's own."""

import importlib
import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import verifiers as vf
from pydantic import ValidationError

from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

_OURS = {"agentdojo": "workers.environments.agentdojo", "shell": "workers.environments.shell"}


def load(settings: EnvironmentSettings, search_path: Path | None, offered: dict[str, Any]) -> Any:
    """A `vf.MultiTurnEnv`, as its module's `load_environment` makes it.

    On the main thread: verifiers installs signal handlers, which are put back here.

    Args:
        settings: Which environment, with which arguments.
        search_path: Folder to look in for a user's own environment module.
        offered: Arguments that are passed where `load_environment` names them and `environment.args` does
            not; `folder`, the one of `settings`, is another.

    Raises:
        EnvironmentLoadError: There is no such environment, or it does not load with these arguments.
    """
    with _signal_handlers_kept():
        return _load(settings, search_path, offered)


def _load(settings: EnvironmentSettings, search_path: Path | None, offered: dict[str, Any]) -> Any:
    folder = _folder(settings, search_path)
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    module = _module(settings.id, search_path)
    load = getattr(module, "load_environment", None)
    if load is None:
        raise EnvironmentLoadError(f"environment.id: module {module.__name__} has no `load_environment`")
    offered = {**offered, "folder": folder}
    asked_for = inspect.signature(load).parameters.keys() & offered.keys() - settings.args.keys()
    try:
        env = load(**{name: offered[name] for name in asked_for}, **settings.args)
    except EnvironmentLoadError:
        raise
    except (TypeError, ValueError, ValidationError, AssertionError) as error:
        raise EnvironmentLoadError(f"environment.args: {settings.id} does not take them: {error}") from error
    if not isinstance(env, (vf.MultiTurnEnv, vf.EnvGroup)):
        raise EnvironmentLoadError(
            f"environment.id: {settings.id} gave a {type(env).__name__}; a verifiers MultiTurnEnv is needed"
        )
    return env


def _folder(settings: EnvironmentSettings, search_path: Path | None) -> Path | None:
    """Where modules of a user's own are; on another node, in the worker's copy of the driver's folder."""
    folder = settings.folder
    if folder is None or folder.is_dir() or search_path is None:
        return folder
    return Path(os.path.relpath(folder, search_path)).resolve()


def _module(name: str, search_path: Path | None) -> ModuleType:
    try:
        if name.endswith(".py"):
            return _module_from_file(name, search_path or Path())
        return importlib.import_module(_OURS.get(name, name.replace("-", "_")))
    except ImportError as error:
        known = ", ".join(f"`{ours}`" for ours in _OURS)
        raise EnvironmentLoadError(
            f"environment.id: {name!r} cannot be imported: {error}; give {known}, an importable module, or "
            "the path of a Python file"
        ) from error


def _module_from_file(name: str, search_path: Path) -> ModuleType:
    path = search_path / name
    if not path.is_file():  # on another node, where `ray job submit` has put a copy of the driver's folder
        path = Path(os.path.relpath(path, search_path))
    # Under a name of its own: the file may be called like a package that others import.
    spec = importlib.util.spec_from_file_location(f"kumite_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise EnvironmentLoadError(f"environment.id: there is no file {search_path / name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _signal_handlers_kept() -> Generator[None]:
    """Puts back the handlers that `vf.Environment.__init__` replaces."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
