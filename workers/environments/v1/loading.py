"""A v1 environment from its module and `environment.args`, the block that verifiers has under `[env]`."""

import logging
import re
import sys
from types import ModuleType
from typing import Any, cast

from pydantic import ValidationError

from workers.environments.v1.runtime_config import read_runtime
from workers.environments.v1.seats import fill_seat, seat_names
from workers.environments.v1.selection import BOUND, SELECT
from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

_log = logging.getLogger(__name__)


def find_tasksets(module: ModuleType) -> list[str]:
    """Names of what a module exports, in its `__all__`, that is a v1 taskset."""
    v1 = sys.modules.get("verifiers.v1.taskset")
    if v1 is None:  # a module that has one has imported it
        return []
    exported: Any = getattr(module, "__all__", ())
    return [
        str(name)
        for name in exported
        if isinstance(found := getattr(module, str(name), None), type)
        and issubclass(found, v1.Taskset)
        and found is not v1.Taskset
    ]


def load_env(settings: EnvironmentSettings, module: ModuleType) -> Any:
    """A `verifiers.v1` Env, with its taskset and its seat.

    Args:
        settings: Which environment, with which arguments.
        module: Exports its taskset.

    Raises:
        EnvironmentLoadError: It does not load, or asks for what is not played yet; names the key.
    """
    from verifiers.v1.utils import loaders

    try:
        raw = _block(settings, module)
        config: Any = loaders.resolve_env_config(raw)
        env: Any = cast(Any, loaders).load_environment(config)
    except ValidationError as error:
        raise EnvironmentLoadError(_word_validation(settings, error)) from error
    except EnvironmentLoadError:
        raise
    except Exception as error:
        _log.warning("the taskset of %s cannot be made", settings.id, exc_info=error)
        said = " ".join(str(error).split())[:500]
        raise EnvironmentLoadError(
            f"environment.args: the taskset of {settings.id} cannot be made: {type(error).__name__}: {said}"
        ) from error
    _check_playable(settings, env)
    return env


def _block(settings: EnvironmentSettings, module: ModuleType) -> dict[str, Any]:
    """`environment.args` as verifiers takes it: the taskset by its module, and every seat filled."""
    from verifiers.v1.utils import loaders

    args = {name: value for name, value in settings.args.items() if name not in (BOUND, SELECT)}
    taskset = _section(args, "taskset")
    named = taskset.pop("id", None)
    if named is not None and _module_name(str(named)) != _module_name(module.__name__):
        raise EnvironmentLoadError(
            f"environment.args.taskset.id: got {named!r}, and environment.id is {settings.id!r}, which says "
            "which taskset it is; leave it out"
        )
    alias = f"kumite_taskset_{_module_name(module.__name__)}"
    sys.modules.setdefault(alias, module)  # verifiers imports it by its id, which must be no path
    config_class: Any = loaders.env_config_type(alias, str(args.get("id") or ""))
    seats: dict[str, Any] = {}
    for name in seat_names(config_class):
        given = _section(args, name)
        seats[name] = fill_seat(config_class, name, given, read_runtime(given, f"environment.args.{name}"))
    return {**args, "taskset": {**taskset, "id": alias}, **seats}


def _section(args: dict[str, Any], name: str, where: str = "environment.args") -> dict[str, Any]:
    given: Any = args.get(name) or {}
    if not isinstance(given, dict):
        raise EnvironmentLoadError(
            f"{where}.{name}: got {given!r}; give an object with keys, as under verifiers' [env.{name}]"
        )
    return dict(cast(dict[str, Any], given))


def _module_name(name: str) -> str:
    return re.sub(r"\W", "_", name.rpartition("/")[2].partition("@")[0]).lower()


def _word_validation(settings: EnvironmentSettings, error: ValidationError) -> str:
    complaints = [
        f"  environment.args.{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}"
        for entry in error.errors()
    ]
    return f"environment.args: {settings.id} does not take them:\n" + "\n".join(complaints)


def _check_playable(settings: EnvironmentSettings, loaded: Any) -> None:
    """Refuses toolsets that cannot be served, or that the harness cannot call.

    Raises:
        EnvironmentLoadError: There is one.
    """
    from verifiers.v1.envs.single_agent import SingleAgentEnv
    from verifiers.v1.harnesses.null import NullHarness
    from verifiers.v1.utils import compile as pairings

    from workers.environments.v1.sandboxes import toolsets_of
    from workers.environments.v1.toolsets import why_not_served

    env: Any = loaded
    harnesses: dict[str, Any] = env._harnesses
    has_program = any(not isinstance(harness, NullHarness) for harness in harnesses.values())
    task_class: Any = env._task_cls
    try:
        toolsets = toolsets_of(env)
    except Exception as error:
        _log.warning("the toolsets of %s cannot be made", settings.id, exc_info=error)
        said = " ".join(str(error).split())[:500]
        raise EnvironmentLoadError(
            f"environment.id: the toolsets of {settings.id} cannot be made: {type(error).__name__}: {said}; "
            "the traceback is in the log"
        ) from error
    for toolset in toolsets:
        if why := why_not_served(toolset, has_program=has_program):
            raise EnvironmentLoadError(
                f"environment.id: {settings.id}: its toolset {toolset.server_name!r} {why}"
            )
    if isinstance(loaded, SingleAgentEnv):  # of several agents, some may play tasks without tools
        [(name, harness)] = harnesses.items()
        try:
            cast(Any, pairings).validate_pairing(
                harness, task_class, env.config.agent.runtime, tools=toolsets
            )
        except ValueError as error:
            raise EnvironmentLoadError(f"environment.args.{name}.harness.id: {error}") from error
