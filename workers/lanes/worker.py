"""The rollout worker as Ray runs it: its episodes are played in processes of their own, which it watches."""

import asyncio
import os
import threading
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

import ray

from workers import logs
from workers.lanes.interpreter import OwnPython
from workers.lanes.lanes import Lanes
from workers.records import EpisodeResult, EpisodeSpec
from workers.settings import WorkerSettings

_T = TypeVar("_T")


class LanedWorker:
    """A Ray actor's class, with the methods of a `RolloutWorker`; it works without Ray too.

    No code of an environment runs in this process, so that it answers whatever that code does: see
    `workers.lanes.lanes`. As an actor it must be a threaded one (`max_concurrency` at least the episodes it
    runs at once), with no coroutine among its methods. It must be made on a main thread: the kernel ends
    its lanes with the thread that has started them.

    Args:
        settings: What to play and how.
        worker_id: Names the worker in records and container labels.
        python: What runs the environment's code. None: this process's Python.

    Raises:
        EnvironmentLoadError: The environment does not load.
    """

    def __init__(self, settings: WorkerSettings, worker_id: str, python: OwnPython | None = None) -> None:
        self.settings = settings
        self.node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "local"
        if ray.is_initialized():
            logs.log_to_stderr(run=settings.run_id, worker=worker_id, node=self.node_id)
        self._lanes = Lanes(settings, worker_id, self.node_id, python)
        self.toolset = self._lanes.toolset
        self._stopped = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lanes", daemon=True)
        self._thread.start()

    def whereabouts(self) -> tuple[str, int]:
        """The worker's node and process id."""
        return self.node_id, os.getpid()

    def ready(self) -> None:
        """Brings up the sandbox, ahead of the first episode.

        Raises:
            SandboxStartError: It does not come up.
        """
        self._run_on_lanes_loop(self._lanes.warm_up())

    def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """Plays one episode, or the episodes of one group; each comes to exactly one result.

        A unit that is cancelled comes to none.

        Raises:
            LaneDied: The process that played it died of it.
        """
        return self._run_on_lanes_loop(self._lanes.play(specs))

    def cancel(self, episode_ids: Collection[str]) -> None:
        """Breaks off the units that these episodes are in; those that are not here are passed over."""
        self._loop.call_soon_threadsafe(self._lanes.cancel, set(episode_ids))

    def wait_for_stop(self) -> None:
        """Returns when `stop` has been called: whoever waits for it notices any other end, too."""
        self._stopped.wait()

    def answers(self) -> None:
        """Returns: whoever asks knows that this process and its loop are alive."""
        self._run_on_lanes_loop(asyncio.sleep(0))

    def set_version(self, version: int) -> None:
        """Tells that the policy has a new version."""
        self._loop.call_soon_threadsafe(self._lanes.set_version, version)

    def stop(self) -> None:
        """Breaks off what is in flight and ends the lanes; returns when nothing of them is left."""
        self._run_on_lanes_loop(self._lanes.stop())
        self._stopped.set()

    def _run_on_lanes_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
