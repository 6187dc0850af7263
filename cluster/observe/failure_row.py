"""Episodes in a row that fail with one cause: what tells that a run had better stop."""

from cluster.observe.failure_groups import first_line, normalise_message
from workers.records import EpisodeResult, EpisodeSpec


class FailureRow:
    """Counts episodes in a row that fail with the same cause, which trying again cannot mend.

    Such are refusals of the policy before it has acted (a wrong key, an unknown model, a request that it does
    not take), and exceptions of the environment. The latter must have come in two tasks, where there are
    several: one that is broken by itself ends no run.

    Args:
        most: How many end the run. None: none do.
        tasks: How many tasks there are.
    """

    def __init__(self, most: int | None, tasks: int = 1) -> None:
        self._most = most
        self._several = tasks > 1
        self._cause: tuple[str, ...] | None = None
        self._tasks: set[str] = set()
        self._count = 0
        self._said = ""

    def add(self, spec: EpisodeSpec, result: EpisodeResult) -> None:
        """Takes note of an episode that has ended."""
        cause = _lasting_cause(result)
        if cause is None or cause != self._cause:
            self._cause, self._count, self._tasks = cause, 0, set()
        if cause is not None:
            self._count += 1
            if len(self._tasks) < 2:
                self._tasks.add(spec.task_id)
            self._said = f"{result.error_stage}: {first_line(result.error_message or '')}"
            if result.error_traceback:
                self._said += f"\n{result.error_traceback}"

    @property
    def reason(self) -> str | None:
        """Why the run had better stop, in words; None where it had not."""
        if self._most is None or self._cause is None or self._count < self._most:
            return None
        if self._several and self._cause[0] != "policy" and len(self._tasks) < 2:
            return None
        return (
            f"{self._count} episodes in a row failed with the same cause, and more would fail: {self._said}"
        )


def _lasting_cause(result: EpisodeResult) -> tuple[str, ...] | None:
    """What an episode has failed with, where others would fail with it, too; None where it has not."""
    if result.status != "failed":
        return None
    message = result.error_message or ""
    match result.failure:
        case "policy" if result.lasting and result.policy_requests == 0:
            pass
        case "environment":
            pass
        case "task" if result.error_stage == "setup" and not _is_timeout_class(message):
            pass
        case _:
            return None
    return (result.failure, result.error_stage or "", normalise_message(message))


def _is_timeout_class(message: str) -> bool:
    """Whether the class at the beginning of a message says that time was short, which it may not be again."""
    return "Timeout" in message.partition(":")[0]
