"""What an episode goes through, noted while it runs: stages, times, and who failed."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

from workers.environments.classic import error_classes as vf
from workers.environments.json_text import json_text
from workers.lanes.errors import EnvironmentExit
from workers.records import Message, Stage, Timings
from workers.sandbox.base import Session
from workers.sandbox.episode_sandboxes import EpisodeSandboxes


@dataclass
class Turn:
    """One turn's cost, and which of the session's tool calls it made."""

    policy_version: int | None = None
    policy_seconds: float = 0.0
    tools_seconds: float = 0.0
    first_call: int = 0
    last_call: int = 0
    tools: tuple[str, ...] | None = None
    """Names of the tools that the policy was offered; None where nobody noted them."""
    tool_errors: list[bool] | None = None
    """Of each tool call of the action, whether it was answered with an error. None where it is not known."""
    agent: str | None = None
    """Who took it, where that was an agent of its own."""
    branch: int | None = None
    """Which of the agent's conversations it is of."""
    parent_step: int | None = None
    """The step that it goes on from, or that its branch left from."""
    dialect: str | None = None
    """The API that the agent called the policy by."""
    asked: str | None = None
    """What its request changed of the run's sampling, as JSON text."""


@dataclass
class Exchange:
    """What went to the policy and came back in one turn, as it was then, whatever becomes of it later."""

    response: Any
    """verifiers' response, by which the turn is found again; kept, for its id to stay its own."""
    prompt: list[Message]
    action: Message
    no_logprobs: str | None = None
    """Why there are no log-probabilities, where some were asked for."""


@dataclass
class EpisodeTrace:
    """Notes on one episode.

    Args:
        session: The sandbox session that belongs to it.
        sandboxes: Where it takes sessions, where it takes them itself.
        policy_version: Version of the weights that act.
        newest_version: Tells the version that the next turn moves to; None if the episode stays on its own.
    """

    session: Session | None = None
    sandboxes: EpisodeSandboxes | None = None
    policy_version: int | None = None
    newest_version: Callable[[], int | None] | None = None
    stage: Stage = "queue"
    seconds: dict[Stage, float] = field(default_factory=dict[Stage, float])
    turns: list[Turn] = field(default_factory=list[Turn])
    step_rewards: list[float | None] = field(default_factory=list[float | None])
    """Rewards that the environment gave its steps before the episode was scored as a whole."""
    scoring_errors: list[tuple[str, Exception]] = field(default_factory=list[tuple[str, Exception]])
    calls_raised: dict[str, bool] = field(default_factory=dict[str, bool])
    """Of the present turn's tool calls, by their ids: whether verifiers' own tool loop saw them raise."""
    error: BaseException | None = None
    """What broke the episode off, where it is no error that verifiers knows what to do with."""
    sendable: dict[int, tuple[Any, Any]] = field(default_factory=dict[int, tuple[Any, Any]])
    """Messages that were seen before, by their id, and as they can be sent."""
    blocked: BaseException | None = None
    """What broke its code off, where that held the loop up for too long."""
    state: Any = None
    """verifiers' state of the rollout, as soon as there is one."""
    row_is_arrow: bool = False
    """Whether the row's `info` comes from Arrow's structs, and not from JSON text."""
    offered: dict[str, Any] = field(default_factory=dict[str, Any])
    """Every tool that the policy has been offered so far, by name, as it was at first, in that order."""
    exchanges: dict[int, Exchange] = field(default_factory=dict[int, Exchange])
    """Turns, by the id of verifiers' response."""
    last_sent: list[tuple[Any, Message]] = field(default_factory=list[tuple[Any, Message]])
    """The messages of the last turn's prompt, as they were sent and as records."""
    seed: int | None = None
    """Seeds the episode's sampling; each turn's seed is made of it."""
    seeded_turns: int = 0
    """Turns that were given a seed so far."""

    def turn_versions(self) -> list[int]:
        """The versions of the run's own policy, turn by turn; turns of other agents' policies have none."""
        return [turn.policy_version for turn in self.turns if turn.policy_version is not None]

    def exchange_of(self, response: Any) -> Exchange | None:
        """The turn that a response of verifiers' ended; None if it is not of this client's."""
        return self.exchanges.get(id(response))

    def offer(self, tools: Any) -> tuple[str, ...] | None:
        """Notes the tools of a turn, and returns their names; None where they are none that have names."""
        try:
            named = {str(tool.name): tool for tool in cast(list[Any], tools or [])}
        except (AttributeError, TypeError):
            return None
        for name, tool in named.items():
            self.offered.setdefault(name, tool)  # in the order in which they came first
        return tuple(named)

    @contextmanager
    def during(self, stage: Stage) -> Generator[None]:
        """Time spent inside is the stage's; an error leaves `stage` where it happened."""
        outer, self.stage = self.stage, stage
        began = time.monotonic()
        try:
            yield
        except SystemExit as error:
            self.error = EnvironmentExit.of(error)
            raise self.error from error
        except BaseException as error:
            if not isinstance(error, vf.Error):
                self.error = error
            raise
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began
        self.stage = outer

    def initial_patch(self) -> str | None:
        """The patch from the base state to the one in which the episode began, as JSON text."""
        scores = self.session.scores if self.session else None
        if scores is None or not scores.patches or scores.patches[0] is None:
            return None
        return json_text(scores.patches[0])

    def timings(self, total: float) -> Timings:
        """The stages' seconds, as the record has them."""
        return Timings(**self.seconds, total=total)


current_trace: ContextVar[EpisodeTrace | None] = ContextVar("kumite_episode_trace", default=None)
"""The episode that the running task plays; verifiers has no argument to hand it down by."""

scored_traces: ContextVar[tuple[EpisodeTrace, ...]] = ContextVar("kumite_scored_traces", default=())
"""The episodes that are being scored."""
