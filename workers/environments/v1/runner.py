"""Where verifiers' v1 runner is told what is ours: it has no hooks for it."""

from functools import wraps
from typing import Any

from verifiers.v1 import rollout
from verifiers.v1.harnesses.null import NullHarness

from workers.environments.v1.client import WorkerInterception
from workers.environments.v1.container import ContainerRuntime
from workers.environments.v1.harness import ChatLoop
from workers.environments.v1.play import current_play
from workers.environments.v1.runtime import NoRuntime

_rollout: Any = rollout


def adapt_runner() -> None:
    """Has verifiers' runtimes be ours, and notes what an episode fails with. Safe to call twice."""
    if getattr(_rollout.Rollout, "is_kumites", False):
        return
    _rollout.make_runtime = _make_runtime
    fail, begin = _rollout.Rollout.fail, _rollout.Rollout.__init__

    @wraps(fail)
    def note_failure(self: Any, error: Exception) -> None:
        current_play().failure = error
        fail(self, error)

    @wraps(begin)
    def note_trace(self: Any, **given: Any) -> None:
        begin(self, **given)
        current_play().traces.append(self.trace)

    _rollout.Rollout.fail, _rollout.Rollout.__init__ = note_failure, note_trace
    _rollout.Rollout.is_kumites = True


def _make_runtime(config: Any, name: str | None = None) -> ContainerRuntime | NoRuntime:
    play = current_play()
    return NoRuntime(name) if play.sandboxes is None else ContainerRuntime(config, play, name)


def seat_chat_loops(env: Any, interception: WorkerInterception) -> None:
    """Has each seat whose harness is the plain chat played by a loop in this process."""
    make = env._episode_agents

    def episode_agents(*args: Any, **kwargs: Any) -> Any:
        agents = make(*args, **kwargs)
        for agent in agents._agents.values():
            if isinstance(agent.harness, NullHarness):
                agent.harness = ChatLoop(agent.harness.config, interception)
        return agents

    env._episode_agents = episode_agents
