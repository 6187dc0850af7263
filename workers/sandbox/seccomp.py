"""The system calls that a container may make: a profile of our own, the same on every engine."""

import json
from functools import cache
from pathlib import Path

from workers.errors import SandboxStartError

ENGINE_DEFAULT, UNCONFINED = "engine", "unconfined"
OWN_PROFILE = Path(__file__).parent / "seccomp.json"
"""It began as the newest default of Docker's (of mid-2026), without what no agent needs."""


@cache
def seccomp_option(profile: str | None) -> list[str]:
    """The engine's security options for `sandbox.seccomp`.

    Raises:
        SandboxStartError: It names a file that is none, or no profile.
    """
    if profile == ENGINE_DEFAULT:
        return []
    if profile == UNCONFINED:
        return ["seccomp=unconfined"]
    path = OWN_PROFILE if profile is None else Path(profile)
    try:
        text = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SandboxStartError(
            f"sandbox.seccomp: {profile} can't be read as a seccomp profile: {error}. Give the path of a "
            f"JSON file in Docker's format, `{ENGINE_DEFAULT}` or `{UNCONFINED}`, or leave it out"
        ) from error
    if not isinstance(text, dict) or "defaultAction" not in text:
        raise SandboxStartError(
            f"sandbox.seccomp: {profile} is no seccomp profile: an object with a defaultAction is needed, as "
            f"in {OWN_PROFILE}"
        )
    return [f"seccomp={json.dumps(text, separators=(',', ':'))}"]
