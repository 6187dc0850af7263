"""What can go wrong with the processes that run an environment's code.

A worker's own process, which watches them, has these without verifiers, whose import takes seconds.
"""


class EnvironmentLoadError(Exception):
    """The environment cannot be loaded, or its arguments are wrong."""


class EpisodeBlocked(BaseException):
    """Code of the environment held its event loop until it was broken off.

    No `Exception`, so that what catches those, as graders do that call every failure a 0, does not catch it.
    """


class LaneDied(Exception):
    """The process that ran an episode ended, and it was that episode's code which ran just then."""
