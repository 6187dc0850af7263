"""Where verifiers' v1 runner is told what is ours: it has no hooks for it."""

from functools import wraps
from typing import Any

from verifiers.v1 import rollout, runtimes
from verifiers.v1.harnesses.null import NullHarness

from workers.environments.v1.client import WorkerInterception
from workers.environments.v1.colocated_tools import adapt_launch
from workers.environments.v1.container import ContainerRuntime
from workers.environments.v1.harness import ChatLoop
from workers.environments.v1.play import current_play
from workers.environments.v1.runtime import NoRuntime
from workers.environments.v1.toolsets import Caller

_rollout: Any = rollout
_runtimes: Any = runtimes


def adapt_runner() -> None:
    """Has verifiers' runtimes and tool servers be ours, and notes what an episode fails with.

    Safe to call twice.
    """
    if getattr(_rollout.Rollout, "is_kumites", False):
        return
    adapt_launch()
    _rollout.make_runtime = _runtimes.make_runtime = _make_runtime
    _rollout.serve_tools = _serve_tools
    fail = _rollout.Rollout.fail

    @wraps(fail)
    def note_failure(self: Any, error: Exception) -> None:
        current_play().failure = error
        fail(self, error)

    _rollout.Rollout.fail = note_failure
    _rollout.Rollout.is_kumites = True


def _make_runtime(config: Any, name: str | None = None) -> ContainerRuntime | NoRuntime:
    play = current_play()
    if play.sandboxes is None:
        return NoRuntime(name)
    seat = next((trace.agent.name for trace in play.slot.traces if trace.id == name), None)
    return ContainerRuntime(config, play, name, is_lazy=seat in play.interception.chat_seats)


def _serve_tools(
    toolsets: list[Any],
    runtime: Any,
    shared: Any = None,
    *,
    state_route: str = "",
    state_secret: str = "",
    state_base: str | None = None,
) -> Any:
    """Has the worker serve a rollout's toolsets; `state_route` is its id."""
    interception = current_play().interception
    session = interception.state_routes[state_route]
    is_chat = session.trace.agent.name in interception.chat_seats
    caller = Caller(session, None if is_chat else runtime, state_base or "", state_secret)
    return interception.tools.serve(toolsets, shared or {}, caller)


def seat_harnesses(env: Any, interception: WorkerInterception) -> None:
    """Has each seat play as it does here: the plain chat by a loop in this process, a program in a container.

    Args:
        env: verifiers' environment.
        interception: Where model calls go.
    """
    harnesses: dict[str, Any] = env._harnesses
    interception.chat_seats = {name for name, each in harnesses.items() if isinstance(each, NullHarness)}
    make = env._episode_agents

    def episode_agents(*args: Any, **kwargs: Any) -> Any:
        agents = make(*args, **kwargs)
        for name, seated in agents._agents.items():
            seated.ctx = current_play().contexts[name]
            if name in interception.chat_seats:
                seated.harness = ChatLoop(seated.harness.config, interception)
        return agents

    env._episode_agents = episode_agents
