"""What every kind of policy offers to the run that acts by it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

from workers.settings import PolicyEndpoint

OnStage: TypeAlias = Callable[[str], None]
"""Told, in a few words for the user, what is being waited for."""


class PolicyHandle(ABC):
    """A policy that is up; also a context manager that closes it."""

    outcome: str
    """For the user: what it is, and where it came from."""

    @abstractmethod
    def endpoint(self) -> PolicyEndpoint:
        """Where and how workers reach it."""

    def close(self) -> None:  # noqa: B027 - a policy that someone else runs has nothing to end
        """Ends what was started for this run; a policy that is kept alive stays. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
