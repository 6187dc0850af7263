"""What can go wrong with the processes that run an environment's code.

A worker's own process, which watches them, has these without verifiers, whose import takes seconds.
"""

import asyncio


class EnvironmentLoadError(Exception):
    """The environment cannot be loaded, or its arguments are wrong."""


class EpisodeBlocked(BaseException):
    """Code of the environment held its event loop until it was broken off.

    No `Exception`, so that what catches those, as graders do that call every failure a 0, does not catch it.
    """


class EnvironmentExit(Exception):
    """Code of the environment raised what would have ended its process, and its neighbours with it."""

    @classmethod
    def of(cls, error: BaseException) -> "EnvironmentExit":
        """An error that tells what was raised."""
        said = f"{type(error).__name__}({error})"
        match error:
            case SystemExit():
                return cls(f"its code called sys.exit() or exit(): it raised {said}")
            case asyncio.CancelledError():
                return cls(f"its code raised {said}: it waited for something that had been cancelled")
            case _:
                return cls(f"its code raised {said}, which is no Exception")


class LaneDied(Exception):
    """The process that ran an episode ended, and it was that episode's code which ran just then."""
