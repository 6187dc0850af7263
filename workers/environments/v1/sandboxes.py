"""What of a v1 environment needs a container, and which."""

import inspect
import logging
from typing import Any, cast

from verifiers.v1.harnesses.null import NullHarness
from verifiers.v1.task import Task

from workers.sandbox.base import ToolsetSpec
from workers.sandbox.pools import SandboxWish

_log = logging.getLogger(__name__)
_TOOLSET = "sandbox_images.machine.toolset:MachineToolset"
_IMAGES = {"mini_swe_agent": "harness-mini-swe-agent"}
"""Images of the harnesses that have one of their own, by the name of verifiers' module."""
_IMAGE = "harness"
_IMAGE_OF_ALL = "harness-all"
"""The image that has the packages of all of them, where seats of one environment need several."""
_WRITABLE = ("/tmp", "/logs")
"""Folders that verifiers' own hooks write to: what is carried to another container, verdicts, artifacts."""
_MIB_PER_GB = 1000**3 / 1024**2


def find_toolset(env: Any) -> ToolsetSpec | None:
    """What its containers have loaded; None: it needs none.

    One is needed by a harness that is a program, by tasks that say so, by hooks that ask for `runtime`, and
    by toolsets that are to have one of their own.

    Args:
        env: A `verifiers.v1` Env.
    """
    seated: dict[str, Any] = env._harnesses
    programs = [harness for harness in seated.values() if not isinstance(harness, NullHarness)]
    asks = _asks_for_runtime(env._task_cls) or any(map(wants_container, toolsets_of(env)))
    if not programs and not asks:
        return None
    names = [type(harness).__module__.split(".")[-2] for harness in programs]
    images = {_IMAGES.get(name, _IMAGE) for name in names} or {_IMAGE}
    return ToolsetSpec(
        image=images.pop() if len(images) == 1 else _IMAGE_OF_ALL,
        toolset=_TOOLSET,
        session_users=True,
        taken_by_environment=True,
        writable_folders=_WRITABLE,
    )


def toolsets_of(env: Any) -> list[Any]:
    """The toolsets of an environment's tasks, and those that its tasks share."""
    taskset: Any = env.taskset
    return [*env._task_cls.toolsets(taskset.config.task), *taskset.toolsets(taskset.config)]


def wants_container(toolset: Any) -> bool:
    """Whether a toolset is to run in a container of its own."""
    config = toolset.config
    return not config.url and not getattr(config, "colocated", False) and config.runtime.type != "subprocess"


def _asks_for_runtime(task_class: Any) -> bool:
    if task_class.NEEDS_CONTAINER:
        return True
    for name, member in inspect.getmembers(task_class, inspect.isfunction):
        if getattr(Task, name, None) is not member and "runtime" in inspect.signature(member).parameters:
            return True
    return False


def wish_of(config: Any) -> SandboxWish:
    """What a container is to be like, by verifiers' config of one: its defaults are the run's sandbox.

    Args:
        config: verifiers' config of a container, with what the task asks for.
    """
    default: Any = _default(config, "image")
    if config.gpu is not None:
        _log.warning("a task asks for the GPU %s: containers of episodes have none", config.gpu)
    return SandboxWish(
        image=None if config.image == default else config.image,
        memory_mb=None if config.memory is None else max(64, round(config.memory * _MIB_PER_GB)),
        cpus=config.cpu,
    )


def workdir_of(config: Any) -> str | None:
    """Where programs are to start; None: in a folder of the session's own."""
    return None if config.workdir == _default(config, "workdir") else config.workdir


def _default(config: Any, name: str) -> Any:
    fields: dict[str, Any] = cast(Any, type(config)).model_fields
    return fields[name].default
