"""Environments of verifiers' classic API, as their `load_environment` makes them."""

import functools
import inspect
import logging
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import verifiers as vf

from workers.environments.library_output import log_library_output
from workers.environments.modules import import_environment, module_folder
from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

_log = logging.getLogger(__name__)


def load_classic_environment(
    settings: EnvironmentSettings,
    search_path: Path | None,
    offered: dict[str, Any],
    module: ModuleType | None = None,
) -> Any:
    """A `vf.MultiTurnEnv`, as its module's `load_environment` makes it.

    On the main thread: verifiers installs signal handlers, which are put back here.

    Args:
        settings: Which environment, with which arguments.
        search_path: Folder to look in for a user's own environment module.
        offered: Arguments that are passed where `load_environment` names them and `environment.args` does
            not, if they have no default there but None; `folder`, the one of `settings`, is another.
        module: The environment's module. None: it is imported.

    Raises:
        EnvironmentLoadError: There is no such environment, or it does not load with these arguments.
    """
    _accept_empty_datasets()
    with _keep_signal_handlers(), log_library_output():
        return _load_verifiers_environment(settings, search_path, offered, module)


def _accept_empty_datasets() -> None:
    """Has verifiers take a dataset without rows that has a column of ids: it looks at the first row's."""
    environment: Any = vf.Environment
    if getattr(environment._format_dataset, "takes_empty_datasets", False):
        return
    format_dataset = environment._format_dataset

    @functools.wraps(format_dataset)
    def formatted(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        if len(dataset) == 0 and "example_id" in dataset.column_names:
            dataset = dataset.remove_columns(["example_id"])
        return format_dataset(self, dataset, *args, **kwargs)

    formatted.takes_empty_datasets = True  # type: ignore[attr-defined]
    environment._format_dataset = formatted


def _load_verifiers_environment(
    settings: EnvironmentSettings,
    search_path: Path | None,
    offered: dict[str, Any],
    module: ModuleType | None,
) -> Any:
    module = module or import_environment(settings, search_path)
    load = getattr(module, "load_environment", None)
    if load is None:
        raise EnvironmentLoadError(f"environment.id: module {module.__name__} has no `load_environment`")
    offered = {**offered, "folder": module_folder(settings, search_path)}
    asked_for = _select_offered(load, offered) - settings.args.keys()
    given = {**{name: offered[name] for name in asked_for}, **settings.args}
    _check_arguments(load, given, settings)
    try:
        env = load(**given)
    except EnvironmentLoadError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        _log.warning("load_environment of %s failed", settings.id, exc_info=error)
        raise EnvironmentLoadError(explain_load_error(settings, error)) from error
    _check_environment(env, settings)
    return env


def _select_offered(load: Any, offered: dict[str, Any]) -> set[str]:
    """Which of ours a `load_environment` asks for: arguments of such names that have no value of its own.

    One with a default other than None is an argument of the user's which happens to be called the same.
    """
    parameters = inspect.signature(load).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name
        for name, parameter in parameters.items()
        if name in offered
        and parameter.kind in named
        and (parameter.default is None or parameter.default is inspect.Parameter.empty)
    }


def _check_arguments(load: Any, given: dict[str, Any], settings: EnvironmentSettings) -> None:
    try:
        inspect.signature(load).bind(**given)
    except TypeError as error:
        takes = ", ".join(inspect.signature(load).parameters) or "none"
        raise EnvironmentLoadError(
            f"environment.args: {settings.id} does not take them: {error}; its load_environment takes {takes}"
        ) from error


def explain_load_error(settings: EnvironmentSettings, error: BaseException) -> str:
    """One line on what `load_environment` raised, and on what would be right."""
    name = settings.id
    said = " ".join(str(error).split())[:500]
    match error:
        case vf.MissingKeyError():
            missing = getattr(error, "keys", None) or said
            return f"environment.id: {name} needs keys that are not set: {missing}; set these variables"
        case KeyError() if _is_variable(error):
            variable = error.args[0]
            return (
                f"environment.id: {name} reads the environment variable {variable}, which is not set; "
                f"set it where the run is started (export {variable}=…)"
            )
        case KeyError():
            return (
                f"environment.args: {name} looked for the key {said} and found none (KeyError); give it in "
                "environment.args, or see the log for where that was"
            )
        case openai.OpenAIError():
            return f"environment.id: {name} made a client of the openai package, which says: {said}"
        case FileNotFoundError() if error.filename is not None:
            return (
                f"environment.id: {name} opens {str(error.filename)!r}, and there is no such file; give a "
                "path that is there on every node, or one below environment.folder"
            )
        case ImportError():
            module = f" (module {error.name})" if error.name else ""
            return (
                f"environment.id: {name} needs a package that cannot be imported{module}: {said}; install it "
                "where the workers run"
            )
        case SystemExit():
            return f"environment.id: {name} called sys.exit({said}) in load_environment; it is to return one"
        case AttributeError() if "DatasetDict" in said:
            return (
                f"environment.id: {name} gives verifiers a DatasetDict, which is several datasets; give one "
                'of its splits, dataset["train"] or dataset["test"]'
            )
        case ValueError() | AssertionError():
            return f"environment.args: {name} does not take them: {said or type(error).__name__}"
        case _:
            return (
                f"environment.id: load_environment of {name} raised {type(error).__name__}: "
                f"{said or 'without a word'}; the traceback is in the log"
            )


def _is_variable(error: KeyError) -> bool:
    """Whether it comes from `os.environ`, whose own code raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "os" and bool(error.args)


def _check_environment(env: Any, settings: EnvironmentSettings) -> None:
    """Sees that it is an environment that has tasks in a form to be read.

    Raises:
        EnvironmentLoadError: It is not.
    """
    name = settings.id
    if inspect.isawaitable(env):
        if inspect.iscoroutine(env):
            env.close()
        raise EnvironmentLoadError(
            f"environment.id: load_environment of {name} is a coroutine function (async def); make it a "
            "plain one"
        )
    if env is None:
        raise EnvironmentLoadError(
            f"environment.id: load_environment of {name} returned nothing; it is to return the environment"
        )
    if not isinstance(env, (vf.MultiTurnEnv, vf.EnvGroup)):
        what = env.__name__ if isinstance(env, type) else f"a {type(env).__name__}"
        raise EnvironmentLoadError(
            f"environment.id: {name} gave {what}; a verifiers MultiTurnEnv is needed (or an EnvGroup), made "
            "and ready"
        )


@contextmanager
def _keep_signal_handlers() -> Generator[None]:
    """Puts back the handlers that `vf.Environment.__init__` replaces."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
