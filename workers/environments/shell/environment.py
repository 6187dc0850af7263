"""Shell tasks as a classic verifiers environment, played by the policy in turns or by an agent."""

from collections.abc import Mapping
from typing import Any

from workers.environments.arguments import check_arguments
from workers.environments.shell.shell_env import ShellArgs, ShellEnv, check_timeouts
from workers.settings import SandboxSettings


def load_environment(
    sandbox: Mapping[str, Any] | None = None,
    episode_timeout: float | None = None,
    policy: str | None = None,
    **args: Any,
) -> ShellEnv:
    """The environment, as verifiers loads it.

    Args:
        sandbox: Settings of the environment's own sandbox, as in a config's `sandbox` section.
        episode_timeout: Seconds after which an episode is ended without a grade. Under Kumite, the config's
            `episode.timeout`.
        policy: Name of the model that plays.
        **args: See `ShellArgs`.

    Raises:
        EnvironmentLoadError: An argument is not what it should be.
    """
    settings = check_arguments(ShellArgs, args)
    own_sandbox = check_arguments(SandboxSettings, sandbox or {}, "sandbox")
    if settings.agent is not None:
        # Not above: what agents speak takes nearly a second to import.
        from workers.environments.agents.shell_env import AgentShellEnv, check_agent

        check_agent(settings.agent, policy, episode_timeout)
        return AgentShellEnv(settings, settings.agent, own_sandbox)
    check_timeouts(settings, episode_timeout)
    return ShellEnv(settings, own_sandbox)
