"""Where verifiers' v1 runner is told what is ours: it has no hooks for it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from verifiers.v1 import agent, rollout
from verifiers.v1.harnesses.null import NullHarness

from workers.environments.v1.client import WorkerInterception
from workers.environments.v1.container import ContainerRuntime
from workers.environments.v1.harness import ChatLoop
from workers.environments.v1.play import current_play
from workers.environments.v1.runtime import NoRuntime

_agent: Any = agent
_rollout: Any = rollout


def adapt_runner() -> None:
    """Has verifiers' runtimes and tool servers be ours, and notes what an episode fails with.

    Safe to call twice.
    """
    if getattr(_rollout.Rollout, "is_kumites", False):
        return
    _rollout.make_runtime = _make_runtime
    _rollout.serve_tools = _serve_tools
    _agent.provision_runtime = _provision_runtime
    fail = _rollout.Rollout.fail

    @wraps(fail)
    def note_failure(self: Any, error: Exception) -> None:
        current_play().failure = error
        fail(self, error)

    _rollout.Rollout.fail = note_failure
    _rollout.Rollout.is_kumites = True


def _make_runtime(config: Any, name: str | None = None) -> ContainerRuntime | NoRuntime:
    play = current_play()
    return NoRuntime(name) if play.sandboxes is None else ContainerRuntime(config, play, name)


@asynccontextmanager
async def _provision_runtime(config: Any, name: str | None = None) -> AsyncGenerator[Any]:
    """A runtime that an environment has for itself."""
    runtime = _make_runtime(config, name)
    try:
        await runtime.start()
        yield runtime
    finally:
        await runtime.stop()


def _serve_tools(
    toolsets: list[Any], runtime: Any, shared: Any = None, *, state_route: str = "", **_: Any
) -> Any:
    """Has the worker serve a rollout's toolsets; `state_route` is its id."""
    interception = current_play().interception
    return interception.tools.serve(toolsets, shared or {}, interception.state_routes[state_route])


def seat_chat_loops(env: Any, interception: WorkerInterception) -> None:
    """Has each seat whose harness is the plain chat played by a loop in this process."""
    make = env._episode_agents

    def episode_agents(*args: Any, **kwargs: Any) -> Any:
        agents = make(*args, **kwargs)
        for name, seated in agents._agents.items():
            seated.ctx = current_play().contexts[name]
            if isinstance(seated.harness, NullHarness):
                seated.harness = ChatLoop(seated.harness.config, interception)
        return agents

    env._episode_agents = episode_agents
