"""`environment.args.agent.runtime`: what of verifiers' config of a runtime holds for a container of ours."""

import logging
from typing import Any, cast

from workers.errors import EnvironmentLoadError

_log = logging.getLogger(__name__)
_TYPE = "docker"
_OURS = frozenset({"image", "workdir", "cpu", "memory", "gpu", "disk", "allow", "block"})
"""Keys that mean the same, whichever type of container verifiers would have made."""
_TYPES = ("subprocess", "docker", "podman", "apptainer", "prime", "modal", "e2b")


def read_runtime(agent: dict[str, Any], where: str = "environment.args.agent") -> dict[str, Any]:
    """The container that verifiers is told of, by the config of an agent.

    A type that is not ours is said, and what its keys mean for any container is kept.

    Args:
        agent: The agent's config.
        where: The key that it is under.

    Raises:
        EnvironmentLoadError: It is no runtime's config.
    """
    given: Any = agent.get("runtime")
    if given is None:
        return {"type": _TYPE}
    if not isinstance(given, dict):
        raise EnvironmentLoadError(
            f"{where}.runtime: got {given!r}; give an object, as under verifiers' [env.agent.runtime], or "
            "leave it out"
        )
    runtime = cast(dict[str, Any], given)
    kind = runtime.get("type", _TYPE)
    if kind not in _TYPES:
        raise EnvironmentLoadError(
            f"{where}.runtime.type: got {kind!r}; verifiers has {', '.join(_TYPES)}. Episodes "
            "are played in containers of Kumite's own, whichever it is: leave it out"
        )
    kept = {name: value for name, value in runtime.items() if name in _OURS}
    left_out = sorted(runtime.keys() - kept.keys() - {"type"})
    if kind != _TYPE or left_out:
        _log.warning(
            "%s.runtime: got type `%s`; in place of it, a program runs in a container of "
            "this machine, without a network, as `sandbox` says%s",
            where,
            kind,
            f"; {', '.join(left_out)} can't hold for one and is not used" if left_out else "",
        )
    return {**kept, "type": _TYPE}
