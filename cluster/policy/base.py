"""What every kind of policy offers to the run that acts by it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from cluster.errors import UpdateRefused
from cluster.policy.vllm.engine_metrics import EngineMetrics
from workers.settings import PolicyEndpoint

OnStage: TypeAlias = Callable[[str], None]
"""Told, in a few words for the user, what is being waited for."""


class PolicyClient(ABC):
    """The client of a running policy; also a context manager that closes it."""

    outcome: str
    """For the user: what it is, and where it came from."""

    @abstractmethod
    def endpoint(self) -> PolicyEndpoint:
        """Where and how workers reach the policy."""

    def metrics(self) -> EngineMetrics | None:
        """How busy it is now. None where it cannot tell.

        Raises:
            PolicyUnavailable: It does not answer.
        """
        return None

    @property
    def version(self) -> int | None:
        """Version of the weights that new episodes act with. None where it is not known."""
        return None

    @property
    def next_version(self) -> int:
        """The lowest number that new weights can be given."""
        return (self.version or 0) + 1

    def update(self, path: Path | str, version: int) -> None:
        """Gives the policy new weights, while it serves.

        Args:
            path: Folder of a LoRA adapter, as PEFT writes it, or of a full checkpoint, as transformers does;
                or a URI of one, `s3://…`, `gs://…`, or what else fsspec knows.
            version: Its version, above the present one.

        Raises:
            UpdateRefused: It does not take them; the version before keeps serving.
            PolicyUnavailable: It does not answer.
        """
        raise UpdateRefused(
            f"{self.outcome}: this kind of policy takes no new weights; `policy.kind: vllm` does"
        )

    def serve_adapter(self, name: str, path: str) -> PolicyEndpoint:
        """Has the policy's deployment serve a LoRA adapter for another agent, beside the policy's versions.

        Args:
            name: What the adapter is called.
            path: Its folder, as PEFT writes it, or a URI of one.

        Returns:
            Where and how workers reach it.

        Raises:
            UpdateRefused: It is not taken.
            PolicyUnavailable: The deployment does not answer.
        """
        raise UpdateRefused(
            f"{self.outcome}: this kind of policy serves no adapters; `policy.kind: vllm` does"
        )

    def close(self) -> None:  # noqa: B027 - a policy that someone else runs has nothing to end
        """Ends what was started for this run; a policy that is kept alive stays. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
