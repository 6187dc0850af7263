"""What verifiers' own `validate` does with a task: no policy plays."""

import asyncio
from typing import Any

from verifiers.v1.agent import AgentConfig
from verifiers.v1.state import state_cls
from verifiers.v1.trace import AgentInfo, Trace, TraceTask
from verifiers.v1.utils.decorators import invoke

from workers.environments.v1.runtime import NoRuntime

_Trace: Any = Trace
_state_cls: Any = state_cls
_AgentInfo: Any = AgentInfo
_SOLVED = 1.0
"""A reward from which on verifiers takes a task for solved."""
_TIMEOUT = 600.0
"""Seconds that the checks of a task may take."""


async def validate_task(task: Any) -> tuple[float | None, str | None]:
    """Asks a task to check its ground truth, and scores it untouched.

    Args:
        task: verifiers' task.

    Returns:
        The untouched task's reward, if it has any; and what is wrong with the task, if something is.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            valid = await _with_set_up(task, _check_ground_truth)
            untouched = await _with_set_up(task, _score_untouched)
    except TimeoutError:
        return None, f"its checks took longer than {_TIMEOUT:g} s"
    except Exception as error:  # noqa: BLE001 - code of the taskset's, whatever it raises
        return None, f"a hook raised {type(error).__name__}: {error}"
    if valid is False:
        return untouched, "its `validate` says that its ground truth is wrong"
    if untouched is not None and untouched >= _SOLVED:
        return untouched, f"it is scored {untouched:g} although nobody has played it"
    return untouched, None


async def _with_set_up(task: Any, check: Any) -> Any:
    """What a check comes to, in a task that was set up for it alone."""
    runtime = NoRuntime("validate")
    trace: Any = _Trace(
        task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        state=_state_cls(type(task))(),
        agent=_AgentInfo(config=AgentConfig(), name="validate", trainable=False),
    )
    await runtime.start()
    await invoke(task.setup, {"trace": trace, "runtime": runtime})
    return await check(task, trace, runtime)


async def _check_ground_truth(task: Any, trace: Any, runtime: Any) -> bool | None:
    return await task.validate(runtime)


async def _score_untouched(task: Any, trace: Any, runtime: Any) -> float | None:
    await invoke(task.finalize, {"trace": trace, "runtime": runtime})
    await task.score(trace, runtime)
    return float(trace.reward) if trace.rewards else None
