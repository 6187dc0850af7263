"""What is known of one episode while verifiers' own runner plays it."""

from dataclasses import dataclass, field
from typing import Any

from workers.environments import tracing
from workers.records import Message, Usage
from workers.sandbox.episode_sandboxes import EpisodeSandboxes
from workers.sandbox.relay import ProtocolFactory


@dataclass
class Call:
    """One model call, as it was sent and answered."""

    prompt: list[Message]
    action: Message | None = None
    """What the policy sampled. None: the call failed."""
    completion: Any = None
    """The answer, as a `ChatCompletion`."""
    tools: tuple[str, ...] = ()
    usage: Usage | None = None
    seconds: float = 0.0
    policy_version: int | None = None


@dataclass
class Play:
    """One episode's notes, which its `EpisodeTrace` holds as its state."""

    answer: str | None = None
    """What the oracle says: the task's own `answer`."""
    calls: dict[str, list[Call]] = field(default_factory=dict[str, list[Call]])
    """Model calls, by the id of verifiers' trace, in the order in which it has them."""
    traces: list[Any] = field(default_factory=list[Any])
    """verifiers' traces, one for each attempt."""
    failure: BaseException | None = None
    """What verifiers' runner has failed with last."""
    sandboxes: EpisodeSandboxes | None = None
    """Where its containers come from."""
    serve: ProtocolFactory | None = None
    """Answers connections from within its containers: verifiers' own model boundary."""
    sandbox_failure: BaseException | None = None
    """What a container was lost by last, in place of which verifiers sees an error of its own."""
    policy_failure: BaseException | None = None
    """What the policy's client has raised last, in place of which verifiers sees an error of its own."""


def current_play() -> Play:
    """The episode that the running task plays."""
    trace = tracing.current_trace.get()
    if trace is None or not isinstance(trace.state, Play):
        raise RuntimeError("this environment is played by Kumite's workers only")
    return trace.state
