"""The rollout worker: owns a sandbox, plays many episodes at once, gives each back when it ends."""

import asyncio
import logging
import os
import threading
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

import ray

from workers import logs
from workers.environments.opening import open_environment
from workers.episode import EpisodePlayer
from workers.records import EpisodeResult, EpisodeSpec
from workers.sandbox import ownership
from workers.settings import WorkerSettings

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class RolloutWorker:
    """A worker in this very process, for what needs no more: tests, benchmarks, a debugger.

    The episodes all run on one event loop, in a thread of its own, so that signals do not work in an
    environment's code, and code that blocks holds all of them up. What Ray runs is a
    `workers.lanes.worker.LanedWorker`, which has the same methods. Both must be made on the main thread:
    verifiers installs signal handlers where it builds an environment.

    Args:
        settings: What to play and how.
        worker_id: Names the worker in records and container labels.

    Raises:
        EnvironmentLoadError: The environment does not load.
    """

    def __init__(self, settings: WorkerSettings, worker_id: str) -> None:
        self.settings = settings
        environment = open_environment(settings.environment, settings.search_path, settings.policy.model)
        self.toolset = environment.toolset
        self.node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "local"
        if ray.is_initialized():
            logs.log_to_stderr(run=settings.run_id, worker=worker_id, node=self.node_id)
        self._stopped = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="episodes", daemon=True)
        self._thread.start()
        self._environment = environment
        self._player = self._on_loop(EpisodePlayer.create(settings, environment, worker_id, self.node_id))

    def whereabouts(self) -> tuple[str, int]:
        """The worker's node and process id."""
        return self.node_id, os.getpid()

    def ready(self) -> None:
        """Brings up the sandbox, ahead of the first episode.

        Raises:
            SandboxStartError: It does not come up.
        """
        if self._player.uses_sandbox:
            if self.settings.sandbox.backend == "docker":
                removed = ownership.sweep()
                if removed:
                    _log.warning("removed %d containers of dead workers", len(removed))
            self._on_loop(self._player.warm_up())

    def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """Plays one episode, or the episodes of one group; each comes to exactly one result.

        A unit that is cancelled comes to none.
        """
        return self._on_loop(self._player.play(specs))

    def cancel(self, episode_ids: Collection[str]) -> None:
        """Breaks off the units that these episodes are in; those that are not here are passed over."""
        self._loop.call_soon_threadsafe(self._player.cancel, set(episode_ids))

    def wait_for_stop(self) -> None:
        """Returns when `stop` has been called: whoever waits for it notices any other end, too."""
        self._stopped.wait()

    def set_version(self, version: int) -> None:
        """Tells that the policy has a new version."""
        self._player.set_version(version)

    def stop(self) -> None:
        """Breaks off what is in flight and ends the sandbox; returns when nothing of it is left."""
        self._on_loop(self._player.shut_down())
        self._on_loop(self._environment.tear_down())
        self._stopped.set()

    def _on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
