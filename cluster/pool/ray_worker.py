"""One rollout worker as the driver sees it: a Ray actor, from the request for it to its end."""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Protocol, cast

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.config import WorkersConfig
from cluster.pool.node_worker import NodeRolloutWorker
from workers.records import EpisodeResult, EpisodeSpec
from workers.settings import WorkerSettings

_log = logging.getLogger(__name__)
_STOP_TIMEOUT = 30.0
"""Seconds that a worker gets to end its sandbox before it is killed; its sandbox then ends by itself."""
_EXTRA_THREADS = 6
"""Beside those that wait for episodes: one watches, and a worker must hear `stop` while it is full."""


_HEARTBEAT_INTERVAL = 10.0
"""Seconds between two times that a worker is asked whether it is there."""
_HEARTBEAT_TIMEOUT = 20.0
"""Seconds that it gets to say so."""
_MAX_HEARTBEATS_MISSED = 2
"""Times in a row that it does not, after which it is killed and another takes its place."""


class WorkerDied(Exception):
    """A worker process is gone, and with it what it was playing."""


class NodeLost(WorkerDied):
    """The worker's whole node is gone, which is nothing that an episode can have done."""


class ResultLost(NodeLost):
    """A unit was played, and its results are not to be had: the node that held them went before they came.

    Whether its worker is gone, too, is for the worker's own end to say.
    """


class PlayFailed(WorkerDied):
    """The worker raised where it should have recorded a failure; it is alive."""


class WorkerFailed(Exception):
    """A worker did not come up."""


class Worker(Protocol):
    """What the pool needs of a worker."""

    name: str
    node_id: str | None
    """The node it is on; None while there is none for it."""
    pid: int | None

    async def wait_until_ready(self) -> None:
        """Returns when the worker can play. Raises `WorkerFailed`."""
        ...

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """Plays one unit; nothing comes back of a unit that was cancelled. Raises `WorkerDied`."""
        ...

    def cancel(self, episode_ids: Collection[str]) -> None:
        """Has it break off the units of these episodes."""
        ...

    def set_version(self, version: int) -> None:
        """Tells it that the policy has a new version."""
        ...

    async def wait_for_end(self) -> str:
        """Returns when the worker process is gone, and says how it ended."""
        ...

    async def stop(self) -> None:
        """Ends it and its sandbox."""
        ...


class RayWorker:
    """A rollout worker that is a Ray actor.

    Args:
        name: The worker's.
        actor: Its handle; the actor need not have a node yet.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self.node_id: str | None = None
        self.pid: int | None = None
        self._actor = actor

    async def wait_until_ready(self) -> None:
        """See `Worker`."""
        try:
            self.node_id, self.pid = await self._actor.whereabouts.remote()
            await self._actor.ready.remote()
        except RayError as error:
            cause = cast(BaseException, error.cause) if isinstance(error, RayTaskError) else error
            ray.kill(self._actor)
            raise WorkerFailed(str(cause).strip()) from error

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        """See `Worker`."""
        try:
            return await self._actor.play.remote(specs)
        except RayActorError as error:
            lost = NodeLost if "node has died" in str(error) else WorkerDied
            raise lost(f"worker {self.name} died: {_first_error_line(error)}") from error
        except RayTaskError as error:
            raise PlayFailed(f"worker {self.name} failed: {error.cause}") from error
        except RayError as error:  # large results stay in their node's store until they are fetched
            what = f"{type(error).__name__}: {_first_error_line(error)}"
            raise ResultLost(f"results of worker {self.name} were lost: {what}") from error

    def cancel(self, episode_ids: Collection[str]) -> None:
        """See `Worker`."""
        self._actor.cancel.remote(list(episode_ids))

    def set_version(self, version: int) -> None:
        """See `Worker`."""
        self._actor.set_version.remote(version)

    async def wait_for_end(self) -> str:
        """See `Worker`."""
        ended = asyncio.ensure_future(_wait_for_reference(self._actor.wait_for_stop.remote()))
        missed = 0
        try:
            while not (await asyncio.wait([ended], timeout=_HEARTBEAT_INTERVAL))[0]:
                missed = 0 if await self._answers_heartbeat() else missed + 1
                if missed >= _MAX_HEARTBEATS_MISSED:
                    ray.kill(self._actor)
                    silent = missed * (_HEARTBEAT_INTERVAL + _HEARTBEAT_TIMEOUT)
                    return f"it has not answered for {silent:.0f} s: it is killed"
            ended.result()
        except RayError as error:
            return _first_error_line(error)
        finally:
            ended.cancel()
        return "it was stopped"

    async def _answers_heartbeat(self) -> bool:
        """Whether it is alive, or ends in a way that `wait_for_end` hears of."""
        try:
            await asyncio.wait_for(_wait_for_reference(self._actor.answers.remote()), _HEARTBEAT_TIMEOUT)
        except TimeoutError:
            return False
        except RayError:
            return True
        return True

    async def stop(self) -> None:
        """See `Worker`."""
        try:
            if self.node_id is not None:
                await asyncio.wait_for(self._actor.stop.remote(), _STOP_TIMEOUT)
        except (TimeoutError, RayError):
            _log.warning("worker %s did not stop in order; it is killed", self.name)
        finally:
            ray.kill(self._actor)


def worker_resources(config: WorkersConfig, uses_sandbox: bool) -> dict[str, float]:
    """The Ray resources that one worker needs."""
    return {"CPU": config.cpus_per_worker, **({"sandbox": 1.0} if uses_sandbox else {})}


def make_worker_requester(
    settings: WorkerSettings, config: WorkersConfig, uses_sandbox: bool
) -> Callable[[str], Worker]:
    """Makes a function that requests a worker of a given name from Ray.

    Ray spreads them over the nodes that have what a worker needs; one that finds no room stays pending,
    and tells the cluster's autoscaler what is missing.

    Args:
        settings: What every worker is started with.
        config: What it asks for.
        uses_sandbox: Whether workers need a node that has Docker: the custom resource `sandbox`.
    """
    needs = worker_resources(config, uses_sandbox)
    actor_class = ray.remote(NodeRolloutWorker).options(
        num_cpus=needs.pop("CPU"),
        resources=needs,
        max_concurrency=config.episodes_per_worker + _EXTRA_THREADS,
        scheduling_strategy="SPREAD",
    )
    return lambda name: RayWorker(name, actor_class.remote(settings, name))


async def _wait_for_reference(reference: Any) -> Any:
    return await reference


def _first_error_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
