"""What Kumite needs of an environment, whichever verifiers API it is written against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from workers.agent_results import AgentResult
from workers.environments.tracing import EpisodeTrace
from workers.policy.endpoint_watch import EndpointWatch
from workers.records import Message, StepRecord
from workers.sandbox.base import Session, ToolsetSpec
from workers.settings import PolicyEndpoint, Split


class PolicyClient(Protocol):
    """What asks the policy for actions, in the words of one API of verifiers."""

    watch: EndpointWatch

    async def close(self) -> None:
        """Closes its connections."""
        ...


@dataclass(frozen=True)
class Actor:
    """The policy as an environment calls it."""

    client: Any
    """What the environment's `open_client` has made."""
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
    agents: list[AgentResult] | None = None
    """What each agent came to, where several have played. None: one has."""
    details: dict[str, Any] | None = None
    """What the environment has noted beside the metrics, as values of JSON."""


class TaskEnvironment(Protocol):
    """What a run is planned by: an environment's tasks, and what it needs of a worker."""

    api: Literal["classic", "v1"]
    """Which of verifiers' APIs it is written against."""
    toolset: ToolsetSpec | None
    """What its sandbox must have loaded; None when it needs no sandbox."""
    needs_groups: bool
    """Whether it scores the rollouts of a task together, so that one worker must play them all."""
    seat_policies: dict[str, str]
    """The policies of `policies` that its agents ask for, by the keys of its arguments that name them."""
    has_tools: bool
    """Whether it offers the policy tools, as far as is known before an episode."""

    @property
    def sampling_args(self) -> dict[str, Any]:
        """Its own sampling arguments, which an actor's win over."""
        ...

    def rows(self) -> Rows:
        """The tasks, in order."""
        ...

    def of_split(self, split: Split) -> Self:
        """The same environment, with the tasks of this split."""
        ...

    async def tear_down(self) -> None:
        """Runs what is to run when nobody needs the environment any more."""
        ...


class RolloutEnvironment(TaskEnvironment, Protocol):
    """An environment that can be rolled out."""

    def open_client(
        self, endpoint: PolicyEndpoint, others: Mapping[str, PolicyEndpoint] | None = None
    ) -> PolicyClient:
        """The client with which it asks a policy, on the running event loop.

        Args:
            endpoint: The run's own policy.
            others: Those of `policies`, by name.
        """
        ...

    def steps_so_far(self, trace: EpisodeTrace) -> tuple[list[StepRecord], str]:
        """The turns of an episode that failed on the way, and its tools as JSON text."""
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
