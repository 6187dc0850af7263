"""What can go wrong on a worker, and how an error is worded on a record."""

from typing import Literal

from workers.environments.classic import error_classes as vf
from workers.environments.classic.error_classes import OverlongPromptError as OverlongPromptError
from workers.lanes.errors import EnvironmentExit as EnvironmentExit
from workers.lanes.errors import EnvironmentLoadError as EnvironmentLoadError
from workers.lanes.errors import EpisodeBlocked as EpisodeBlocked
from workers.lanes.errors import LaneDied as LaneDied

EndCause = Literal["session", "protocol", "memory", "time", "capacity", "toolset", "tool_host", "engine"]
"""Why a session or its sandbox ended: see `workers.sandbox.session.FROM_WITHIN`."""


class SandboxError(vf.SandboxError):
    """A sandbox could not do what was asked of it. An infrastructure failure to verifiers."""

    cause: EndCause | None = None
    """What ended the session or its sandbox; None: nothing ended, or nobody knows."""
    trace: str | None = None
    """The last frames of what a toolset's hook raised, as its process has told them."""


class SandboxStartError(SandboxError):
    """A sandbox did not come up: no engine, no image, a toolset that fails to load, a timeout."""


class SandboxDied(SandboxError):
    """The container or process is gone, or sent a frame that breaks the protocol; its sessions with it."""


class SessionLost(SandboxError):
    """One session was killed inside its sandbox; its neighbours live on."""


class PortTaken(SessionLost):
    """A session did not begin: a port that it was to listen on is in use inside its sandbox."""


class SessionTimeout(SessionLost):
    """A session did not answer within its time limit and was killed."""


class RequestRefused(SandboxError):
    """A request is larger or nested deeper than a sandbox takes. It was not sent."""


class SessionSetupError(SandboxError):
    """The toolset refused to set up a session for this task: the task's or the environment's fault."""


class ToolsetError(SandboxError):
    """A toolset hook other than a tool call raised."""

    raised: str | None = None
    """Class of what it raised: `ToolsetError` where the hook says itself that it can't do what is asked."""


class StaleEpisode(vf.ModelError):
    """The policy's versions went on under an episode: further than it may be, or in its place."""


class TemplateError(Exception):
    """A model's chat template cannot be had, or does not do what is asked of it."""


class DefenseError(vf.Error):
    """A defense raised."""

    def __init__(self, defense: object, hook: str, error: Exception) -> None:
        super().__init__(f"{type(defense).__name__}.{hook} raised {type(error).__name__}: {error}")


class PolicyError(vf.ModelError):
    """The policy did not answer, or answered with something that is no action."""


class PolicyRefusal(PolicyError):
    """The policy refuses for good: another attempt ends alike, or goes well by another action only."""


class EpisodeFailed(Exception):
    """An episode came to no score. The cause says why, the trace says where."""


class ScoringError(Exception):
    """A reward function raised, which verifiers would have called a reward of 0."""


class UnrecordableEpisode(Exception):
    """An episode came to its end with something in it that no record can hold."""


class EpisodeTimeout(TimeoutError):
    """An episode took longer than `episode.timeout`."""


class EnvironmentInfraError(vf.InfraError):
    """Infrastructure of the environment's own failed, which may pass: a judge, say, that does not answer."""
