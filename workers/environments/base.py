"""What Kumite needs of an environment, whichever verifiers API it is written against."""

from dataclasses import dataclass
from typing import Any, Protocol

from verifiers.legacy.clients import Client

from workers.environments.tracing import EpisodeTrace
from workers.records import Message, StepRecord
from workers.sandbox.base import Session, ToolsetSpec


@dataclass(frozen=True)
class Actor:
    """The policy as an environment calls it."""

    client: Client[Any, Any, Any, Any]
    model: str
    sampling: dict[str, Any]


class Rows(Protocol):
    """Tasks as verifiers' `RolloutInput`s, read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass
class Rollout:
    """What one episode came to."""

    messages: list[Message]
    tool_schemas: str
    """A list, as JSON text."""
    steps: list[StepRecord]
    reward: float | None
    metrics: dict[str, float | None]
    stop_reason: str | None
    is_truncated: bool


class RolloutEnvironment(Protocol):
    """An environment that can be rolled out."""

    toolset: ToolsetSpec | None
    """What its sandbox must have loaded; None when it needs no sandbox."""
    needs_groups: bool
    """Whether it scores the rollouts of a task together, so that one worker must play them all."""

    def rows(self) -> Rows:
        """The tasks, in order."""
        ...

    async def play(
        self, row: dict[str, Any], actor: Actor, trace: EpisodeTrace, session: Session | None
    ) -> Rollout:
        """Plays and scores one episode. What it learns on the way it notes in `trace`.

        Raises:
            EpisodeFailed: The episode has no score; what led up to it is in `trace`.
        """
        ...

    async def play_group(
        self, row: dict[str, Any], actor: Actor, traces: list[EpisodeTrace], sessions: list[Session | None]
    ) -> list[Rollout | BaseException]:
        """Plays the rollouts of one task and scores them together."""
        ...
