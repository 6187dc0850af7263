"""vLLM's engine process on a CPU: a fork of one that imports vLLM while its replica does so, too.

vLLM starts its engine as a process of its own when its replica has imported vLLM, and then that process
imports the same: 7 s, one after the other, with a core to spare. So a replica first of all starts a process
that imports it (`import_ahead`), and has its engine forked there. That process has used no thread and no
device by then. Where it could not import vLLM, its fork does so, as a process of vLLM's own would.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import ray

_IMPORTS = "cluster.policy.vllm.engine_imports"
_ray: Any = ray


def import_ahead() -> None:
    """Has a process import vLLM for the engine to come, if this one is a replica's; does not wait for it."""
    if not _ray.is_initialized() or _ray.get_runtime_context().get_actor_id() is None:
        return
    multiprocessing.set_forkserver_preload([_IMPORTS])
    forkserver.ensure_running()


@contextmanager
def forked_engine() -> Generator[None]:
    """Has vLLM fork the engine that it starts in the block."""
    from vllm.v1.engine import utils

    starting: Any = utils
    spawning = starting.get_mp_context

    def get_mp_context() -> ForkServerContext:
        spawning()  # sets variables that the engine reads
        return _EngineContext()

    starting.get_mp_context = get_mp_context
    try:
        yield
    finally:
        starting.get_mp_context = spawning


class _EngineProcess(ForkServerProcess):
    """A fork with the variables that the replica has when it starts it. It ends with the replica."""

    def start(self) -> None:
        self._variables = dict(os.environ)
        super().start()

    def run(self) -> None:
        threading.Thread(target=_end_with_replica, daemon=True).start()
        os.environ.clear()
        os.environ.update(self._variables)
        super().run()


def _end_with_replica() -> None:
    """Waits for the replica's end, however that comes about, and ends this process."""
    replica = multiprocessing.parent_process()
    assert replica is not None
    replica.join()
    os.kill(os.getpid(), signal.SIGKILL)


class _EngineContext(ForkServerContext):
    Process = _EngineProcess
