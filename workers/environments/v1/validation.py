"""What verifiers' own `validate` does with a task: no policy plays."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from verifiers.v1.agent import AgentConfig
from verifiers.v1.runtimes.docker import DockerConfig
from verifiers.v1.state import state_cls
from verifiers.v1.trace import AgentInfo, Trace, TraceTask
from verifiers.v1.utils import compile as pairings
from verifiers.v1.utils.decorators import invoke

from workers.environments.v1.container import ContainerRuntime
from workers.environments.v1.play import Play
from workers.environments.v1.runtime import NoRuntime
from workers.sandbox.base import Owner, ToolsetSpec
from workers.sandbox.episode_sandboxes import EpisodeSandboxes
from workers.sandbox.pools import SandboxPools
from workers.settings import SandboxSettings

_Trace: Any = Trace
_state_cls: Any = state_cls
_AgentInfo: Any = AgentInfo
_pairings: Any = pairings
_NAME = "validate"
_SOLVED = 1.0
"""A reward from which on verifiers takes a task for solved."""
_TIMEOUT = 600.0
"""Seconds that the checks of a task may take."""


MakeRuntime = Callable[[Any], Any]
"""Makes the runtime in which a task is checked."""


async def validate_task(
    task: Any, toolset: ToolsetSpec | None, sandbox: SandboxSettings | None
) -> tuple[float | None, str | None]:
    """Asks a task to check its ground truth, and scores it untouched.

    Args:
        task: verifiers' task.
        toolset: What containers of the environment have loaded. None: it needs none.
        sandbox: What they are like.

    Returns:
        The untouched task's reward, if it has any; and what is wrong with the task, if something is.
    """
    try:
        async with _runtimes(toolset, sandbox) as make, asyncio.timeout(_TIMEOUT):
            valid = await _with_set_up(task, _check_ground_truth, make)
            untouched = await _with_set_up(task, _score_untouched, make)
    except TimeoutError:
        return None, f"its checks took longer than {_TIMEOUT:g} s"
    except Exception as error:  # noqa: BLE001 - code of the taskset's, whatever it raises
        return None, f"a hook raised {type(error).__name__}: {error}"
    if valid is False:
        return untouched, "its `validate` says that its ground truth is wrong"
    if untouched is not None and untouched >= _SOLVED:
        return untouched, f"it is scored {untouched:g} although nobody has played it"
    return untouched, None


@asynccontextmanager
async def _runtimes(
    toolset: ToolsetSpec | None, sandbox: SandboxSettings | None
) -> AsyncGenerator[MakeRuntime]:
    """What makes runtimes: containers, which have ended when this ends, where the environment needs them."""
    if toolset is None or sandbox is None:
        yield lambda _: NoRuntime(_NAME)
        return
    pools = SandboxPools(toolset, sandbox, Owner(_NAME, _NAME), ahead=1)
    sandboxes = EpisodeSandboxes(pools, _NAME, sandbox.user == "root")
    # Nobody plays: connections from within are answered by nobody.
    play = Play(None, {}, None, None, sandboxes=sandboxes, serve=asyncio.Protocol)
    try:
        yield lambda task: ContainerRuntime(
            _pairings.resolve_runtime_config(DockerConfig(), task), play, _NAME
        )
    finally:
        await sandboxes.release_all()
        await pools.close()


async def _with_set_up(task: Any, check: Any, make: MakeRuntime) -> Any:
    """What a check comes to, in a task that was set up for it alone."""
    runtime = make(task)
    runtime.env = dict(task.runtime_env())
    trace: Any = _Trace(
        task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        state=_state_cls(type(task))(),
        agent=_AgentInfo(config=AgentConfig(), name=_NAME, trainable=False),
    )
    try:
        await runtime.start()
        await invoke(task.setup, {"trace": trace, "runtime": runtime})
        return await check(task, trace, runtime)
    finally:
        await runtime.stop()


async def _check_ground_truth(task: Any, trace: Any, runtime: Any) -> bool | None:
    return await task.validate(runtime)


async def _score_untouched(task: Any, trace: Any, runtime: Any) -> float | None:
    await invoke(task.finalize, {"trace": trace, "runtime": runtime})
    await task.score(trace, runtime)
    return float(trace.reward) if trace.rewards else None
