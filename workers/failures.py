"""The one place that knows what to do with each failure: whose it is, and so whether to try again."""

import verifiers as vf

from workers.errors import (
    EpisodeFailed,
    PolicyRefusal,
    SandboxDied,
    SandboxError,
    SandboxStartError,
    SessionLost,
    SessionSetupError,
    SessionTimeout,
    StaleEpisode,
)
from workers.records import FailureKind


def kind_of(error: BaseException) -> FailureKind:
    """Whose failure an error is.

    The policy's, its versions' and the sandbox's may pass, so another attempt may help. The task's and the
    environment's own would come again.
    """
    cause = root_of(error)
    match cause:
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


def is_lasting(error: BaseException) -> bool:
    """Whether it is a failure of the policy's that another attempt does not mend."""
    return isinstance(root_of(error), PolicyRefusal) or isinstance(error.__cause__, PolicyRefusal)


def root_of(error: BaseException) -> BaseException:
    """The error under the wrappings that say nothing of their own."""
    while error.__cause__ is not None and (isinstance(error, EpisodeFailed) or not str(error)):
        error = error.__cause__
    return error
