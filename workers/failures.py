"""The one place that knows what to do with each failure: whose it is, and so whether to try again."""

from workers.environments.classic import error_classes as vf
from workers.errors import (
    EndCause,
    EpisodeFailed,
    PolicyRefusal,
    SandboxDied,
    SandboxError,
    SandboxStartError,
    SessionLost,
    SessionSetupError,
    SessionTimeout,
    StaleEpisode,
    ToolsetError,
)
from workers.records import FailureKind
from workers.sandbox.base import Session

_POLICY_CAUSES: frozenset[EndCause] = frozenset({"protocol", "memory"})
"""Causes of a session's end that are its own doing among neighbours, too: none of them can speak in its
place, and of those that share a container's memory, the kernel ends the one that takes the most."""


def failure_kind(error: BaseException, session: Session | None = None) -> FailureKind:
    """Returns whose failure an error is.

    The policy's, its versions' and the sandbox's may pass, so another attempt may help. The task's and the
    environment's own would come again.

    Args:
        error: What an episode failed with.
        session: The episode's, where its sandbox was made for it alone: what the policy has run in there must
            not get it another attempt.
    """
    cause = root_error(error)
    match cause:
        case SandboxDied() | SessionLost() if session is not None and has_ended_itself(session, cause):
            return "task"
        case SessionLost() if cause.cause in _POLICY_CAUSES:
            return "task"
        case SessionTimeout() | SessionSetupError() | TimeoutError():
            return "task"
        case SandboxDied() | SandboxStartError() | SessionLost():
            return "sandbox"
        case SandboxError():
            return "environment"
        case vf.InfraError():  # of the environment's own; verifiers' runner tries these again, too
            return "sandbox"
        case StaleEpisode():
            return "version"
        case vf.ModelError():
            return "policy"
        case _:
            # verifiers wraps what its client raises in a ModelError that may say something of its own.
            return "policy" if isinstance(error.__cause__, vf.ModelError) else "environment"


def has_ended_itself(session: Session, error: SandboxError) -> bool:
    """Whether what the policy has run in a session must answer for an error: for its end, or its sandbox's.

    It must where the cause lies inside of the container (see `workers.sandbox.session.FROM_WITHIN`), no other
    session has ever been there, and the policy has called a tool. Before that, nothing of it is in there.
    """
    if session.calls == 0:
        return False
    if isinstance(error, ToolsetError):  # a hook that says itself what it can't do is at its author's fault
        return session.sandbox.served == 1 and error.raised != ToolsetError.__name__
    return session.was_ended_from_within(error)


def is_lasting(error: BaseException) -> bool:
    """Whether it is a failure of the policy's that another attempt does not mend."""
    return isinstance(root_error(error), PolicyRefusal) or isinstance(error.__cause__, PolicyRefusal)


def root_error(error: BaseException) -> BaseException:
    """Returns the error under the wrappings that say nothing of their own."""
    while error.__cause__ is not None and (isinstance(error, EpisodeFailed) or not str(error)):
        error = error.__cause__
    return error
