"""Whether a policy can be sampled as settings ask, told before anything starts."""

from collections.abc import Mapping
from typing import Any

from cluster.config import OraclePolicy, Policy, VllmPolicy
from cluster.errors import ConfigError
from workers.policy.sampling_keys import Route, find_refused_keys, make_sampling_arguments
from workers.settings import SamplingSettings


def check_sampling_keys(policy: Policy, sampling: SamplingSettings | None = None) -> None:
    """Sees that every sampling key is heeded.

    Args:
        policy: Who is sampled.
        sampling: How a trainer's loop asks for it. None: as the policy's own settings say.

    Raises:
        ConfigError: One is not; names it.
    """
    if isinstance(policy, OraclePolicy):
        return
    name = "policy.sampling" if sampling is None else "sampling"
    _check_arguments(policy, make_sampling_arguments(policy.sampling if sampling is None else sampling), name)


def check_environment_sampling(policy: Policy, arguments: Mapping[str, Any]) -> None:
    """Sees that an environment's own `sampling_args` are heeded.

    Raises:
        ConfigError: One is not; names it.
    """
    # The number of choices is not sent: Kumite plays `samples` episodes.
    _check_arguments(
        policy, {k: v for k, v in arguments.items() if k != "n"}, "the environment's sampling_args"
    )


def _check_arguments(policy: Policy, arguments: Mapping[str, Any], name: str) -> None:
    if isinstance(policy, OraclePolicy):
        return
    route: Route = "per_turn" if isinstance(policy, VllmPolicy) else "endpoint"
    if policy.tokens == "exact":
        route = "exact"
    for key, instead in find_refused_keys(arguments, route):
        value: Any = arguments
        for part in key.split("."):
            value = value[part]
        how = f"policy.tokens is `{policy.tokens}`, " if route != "endpoint" else ""
        raise ConfigError(f"{name}.{key}: got {value!r:.100}; {how}where it is not heeded: {instead}")
