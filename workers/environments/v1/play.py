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
    number: int
    """Its place among the episode's calls, in the order in which they were made."""
    policy: str | None = None
    """The policy that was asked, of `policies`. None: the run's own."""
    action: Message | None = None
    """What the policy sampled. None: the call failed."""
    completion: Any = None
    """The answer, as a `ChatCompletion`."""
    tools: tuple[str, ...] = ()
    usage: Usage | None = None
    seconds: float = 0.0
    policy_version: int | None = None
    tool_errors: list[bool | None] = field(default_factory=list[bool | None])
    """Of each tool call of the action, whether its result was an error. None: it was not run."""
    tools_seconds: float = 0.0


@dataclass
class Play:
    """One episode's notes, which its `EpisodeTrace` holds as its state."""

    slot: Any
    """verifiers' plan of the episode, with the traces of its present attempt."""
    contexts: dict[str, Any]
    """By which model each seat plays, as verifiers' `ModelContext`."""
    interception: Any
    """verifiers' model boundary, which knows the sessions and the toolsets of rollouts."""
    answer: str | None
    """What the oracle says: the task's own `answer`."""
    calls: dict[str, list[Call]] = field(default_factory=dict[str, list[Call]])
    """Model calls, by the id of verifiers' trace, in the order in which it has them."""
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
    _made: int = 0

    def begin_call(self, trace_id: str, prompt: list[Message]) -> Call:
        """Notes that a policy is asked.

        Args:
            trace_id: verifiers' trace that asks.
            prompt: What it asks with.
        """
        call = Call(prompt, self._made)
        self._made += 1
        self.calls.setdefault(trace_id, []).append(call)
        return call


def current_play() -> Play:
    """The episode that the running task plays."""
    trace = tracing.current_trace.get()
    if trace is None or not isinstance(trace.state, Play):
        raise RuntimeError("this environment is played by Kumite's workers only")
    return trace.state
