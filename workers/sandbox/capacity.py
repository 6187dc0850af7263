"""How many live sessions a container has room for: beyond it, a memory limit thrashes before it kills."""

from workers.settings import SandboxSettings

_HOST_MB = 64
"""What the tool host itself is given, in MiB."""
_SESSION_MB = 16
"""What a session is given, in MiB: three times what a forked AgentDojo session was measured to take."""
_SESSION_PIDS = 2


def most_sessions(settings: SandboxSettings) -> int | None:
    """Sessions that one container may hold at a time; None where nothing bounds them."""
    if settings.max_sessions is not None or settings.backend == "process":
        return settings.max_sessions
    by_memory = (settings.memory_mb - settings.scratch_mb - _HOST_MB) // _SESSION_MB
    return max(1, min(by_memory, settings.pids // _SESSION_PIDS))
