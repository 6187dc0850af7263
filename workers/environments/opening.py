"""The environment that a config names, whichever API of verifiers it is written against."""

from pathlib import Path

from workers.collector import collect_seldom
from workers.environments.base import RolloutEnvironment
from workers.environments.library_output import log_library_output
from workers.environments.modules import import_environment
from workers.environments.v1.loading import find_tasksets
from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings
from workers.tracebacks import add_own_code


@collect_seldom()
def open_environment(
    settings: EnvironmentSettings,
    search_path: Path | None = None,
    policy: str | None = None,
    episode_timeout: float | None = None,
) -> RolloutEnvironment:
    """Imports the environment's module and makes the environment, on the main thread.

    What only one API needs is imported for it alone: the other need not be installed.

    Args:
        settings: Which environment, with which arguments.
        search_path: Folder to look in for a user's own environment module.
        policy: Name of the model that plays.
        episode_timeout: Seconds that an episode may take; None where there is no limit, or none is known.

    Raises:
        EnvironmentLoadError: There is no such environment, or it does not load with these arguments.
    """
    with log_library_output():
        module = import_environment(settings, search_path)
    add_own_code(module)
    tasksets = find_tasksets(module)
    if tasksets and hasattr(module, "load_environment"):
        raise EnvironmentLoadError(
            f"environment.id: {settings.id} has both a `load_environment` (verifiers' classic API) and the "
            f"taskset {tasksets[0]} in its `__all__` (v1); leave one of them out"
        )
    if tasksets:
        from workers.environments.v1.environment import V1Environment

        return V1Environment(settings, search_path, module)
    if not hasattr(module, "load_environment"):
        raise EnvironmentLoadError(
            f"environment.id: module {module.__name__} has no `load_environment` (verifiers' classic API), "
            "and no taskset in its `__all__` (v1)"
        )
    try:
        from workers.environments.classic.environment import ClassicEnvironment
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("verifiers"):
            raise EnvironmentLoadError(
                f"environment.id: {settings.id} is written against verifiers' classic API, and the verifiers "
                "that is installed here has none; its last release with one is 0.3.1"
            ) from error
        raise
    return ClassicEnvironment(settings, search_path, policy, episode_timeout, module)
