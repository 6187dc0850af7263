"""Where environments are: ours, an installed module, or a file of a user's own."""

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

_log = logging.getLogger(__name__)
_BUNDLED_ENVIRONMENTS = {
    "agentdojo": "workers.environments.agentdojo.environment",
    "shell": "workers.environments.shell.environment",
}
_TOOL_ENV = "verifiers.legacy.envs.tool_env"
"""What verifiers imports only for an environment with tools: 400 modules, 0.6 s of CPU."""


def library_modules(settings: EnvironmentSettings, search_path: Path | None = None) -> list[str]:
    """Modules that whoever opens this environment imports, and that are no code of a user's.

    No code of the environment runs for it. Which API it is of shows by the words of its source; where they
    mislead, a module too many is imported, or one too few.
    """
    opening, classic = "workers.environments.opening", "workers.environments.classic.environment"
    bundled = _BUNDLED_ENVIRONMENTS.get(settings.id)
    if bundled is not None:
        return [opening, classic, bundled]
    source = _read_source(settings, search_path)
    if "verifiers.v1" in source:  # which looks for a taskset among its own first, and imports them all
        return [opening, "workers.environments.v1.environment", "verifiers.v1.tasksets"]
    if "load_environment" in source:
        return [opening, classic, *([_TOOL_ENV] if "ToolEnv" in source else [])]
    return [opening]


def _read_source(settings: EnvironmentSettings, search_path: Path | None) -> str:
    """The environment's source; empty where it is not found without running code of a user's."""
    if settings.id.endswith(".py"):
        places = [(search_path or Path()) / settings.id]
    elif "." in settings.id:  # its package would be imported to find it
        places = []
    else:
        name, folder = settings.id.replace("-", "_"), module_folder(settings, search_path)
        folders = [*([folder] if folder is not None else []), *map(Path, sys.path)]
        places = [place for each in folders for place in (each / f"{name}.py", each / name / "__init__.py")]
    with contextlib.suppress(OSError, ValueError):  # whoever opens the environment will say so
        for place in places:
            if place.is_file():
                return place.read_text(errors="replace")
    return ""


def module_folder(settings: EnvironmentSettings, search_path: Path | None) -> Path | None:
    """Where modules of a user's own are; on another node, in the worker's copy of the driver's folder."""
    folder = settings.folder
    if folder is None or folder.is_dir() or search_path is None:
        return folder
    return Path(os.path.relpath(folder, search_path)).resolve()


def import_environment(settings: EnvironmentSettings, search_path: Path | None) -> ModuleType:
    """The module that `environment.id` names, imported.

    Args:
        settings: Which environment.
        search_path: Folder to look in for a user's own environment module.

    Raises:
        EnvironmentLoadError: There is no such module, or its code raised.
    """
    folder = module_folder(settings, search_path)
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    name = settings.id
    try:
        if name.endswith(".py"):
            return _import_module_file(name, search_path or Path())
        return importlib.import_module(_BUNDLED_ENVIRONMENTS.get(name, name.replace("-", "_")))
    except EnvironmentLoadError:
        raise
    except ImportError as error:
        known = ", ".join(f"`{ours}`" for ours in _BUNDLED_ENVIRONMENTS)
        raise EnvironmentLoadError(
            f"environment.id: {name!r} cannot be imported: {error}; give {known}, an importable module, or "
            "the path of a Python file"
        ) from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        _log.warning("%s cannot be imported", name, exc_info=error)
        said = " ".join(str(error).split())[:500]
        raise EnvironmentLoadError(
            f"environment.id: {name!r} cannot be imported: its code raised {type(error).__name__}: {said}; "
            "the traceback is in the log"
        ) from error


def _import_module_file(name: str, search_path: Path) -> ModuleType:
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
