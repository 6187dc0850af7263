"""Whether an environment's programs can have the containers that they need."""

from cluster.config import RunConfig
from cluster.errors import ConfigError
from workers.environments.base import TaskEnvironment


def check_container(config: RunConfig, environment: TaskEnvironment) -> None:
    """Sees that a taskset that needs containers has a backend that makes them.

    Raises:
        ConfigError: It has not, and nobody insists.
    """
    sandbox = config.sandbox
    if (
        environment.api != "v1"
        or environment.toolset is None
        or sandbox.backend != "process"
        or sandbox.unsafe
    ):
        return
    raise ConfigError(
        f"sandbox.backend: got `process`, and {config.environment.id} needs containers: its harness is a "
        "program, or its hooks use the runtime, and both would run on this machine. Give `docker`, or set "
        "sandbox.unsafe to insist"
    )
