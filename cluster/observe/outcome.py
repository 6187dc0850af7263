"""What a run's outcome is to whoever started it: whether so many episodes failed that it counts as failed."""

from cluster.errors import ConfigError
from cluster.observe.summary import Summary


class FailureLimit:
    """The limit of failed episodes up to which a run counts as done.

    Args:
        given: A count (`20`), or a share of those that ended (`0.1`, `10%`).

    Raises:
        ConfigError: It is neither.
    """

    def __init__(self, given: str) -> None:
        self.given = given.strip()
        self._count: int | None = None
        self._share = 0.0
        try:
            if self.given.isdecimal():
                self._count = int(self.given)
            elif self.given.endswith("%"):
                self._share = float(self.given[:-1]) / 100
            else:
                self._share = float(self.given)
        except ValueError:
            self._share = -1.0
        if not 0 <= self._share <= 1:
            raise ConfigError(
                f"--max-failed: got {given!r}; give a count, such as 20, or a share, such as 0.1 or 10%"
            )

    def complaint(self, summary: Summary) -> str | None:
        """Why a run of this summary counts as failed, in words; None where it does not."""
        ended = summary.finished + summary.failed
        if ended and not summary.finished:
            return f"none of the {ended:,} episodes finished"
        most = self._count if self._count is not None else self._share * ended
        if summary.failed > most:
            return (
                f"{summary.failed:,} of {ended:,} episodes failed, more than --max-failed {self.given} allows"
            )
        return None
