"""A unit's seat comes back to the pool, at whatever turn of the event loop the unit is broken off."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager

import pytest

from cluster.config import RunConfig
from cluster.coordinator import Coordinator
from cluster.observe.observers import Observers
from cluster.plan.groups import Groups
from cluster.pool.worker_pool import WorkerPool
from tests.cluster.synthetic import episode, result
from workers.records import EpisodeResult, EpisodeSpec

CONFIG = RunConfig.model_validate(
    {"environment": {"id": "e"}, "policy": {"kind": "oracle"}, "workers": {"max": 1}, "samples": 4, "keep": 1}
)
TURNS = range(25)
"""More turns than a unit takes from its seat to the worker."""


class Worker:
    """Plays a group's first episode in so many turns of the event loop, and the others for ever."""

    name = "worker-0001"
    node_id: str | None = "here"
    pid: int | None = 1

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.go_on = asyncio.Event()

    async def wait_until_ready(self) -> None: ...

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        [spec] = specs
        await self.go_on.wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if spec.sample_index:
            await asyncio.Event().wait()
        return [result(episode(0, episode_id=spec.episode_id, group_id=spec.group_id))]

    def cancel(self, episode_ids: Collection[str]) -> None: ...

    def set_version(self, version: int) -> None: ...

    async def wait_for_end(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def stop(self) -> None: ...


class Dataset:
    def __init__(self) -> None:
        self.recorded: list[str] = []

    async def add_states(self, states: dict[str, str]) -> None: ...

    async def append(self, result: EpisodeResult) -> None:
        self.recorded.append(result.episode_id)


@asynccontextmanager
async def pool_of(worker: Worker) -> AsyncGenerator[WorkerPool]:
    pool = WorkerPool(CONFIG.workers, lambda name: worker)
    try:
        await pool.start(4)
        yield pool
    finally:
        await pool.close()


def coordinator(pool: WorkerPool, dataset: Dataset, groups: Groups | None = None) -> Coordinator:
    return Coordinator(CONFIG, pool, dataset, Observers(), "r", "m", groups)


def unit(sample: int) -> list[EpisodeSpec]:
    row = {"prompt": "go"}
    return [EpisodeSpec(episode_id=f"e{sample}", task_id="t", group_id="g", sample_index=sample, row=row)]


@pytest.mark.parametrize("turns", TURNS)
async def test_of_a_unit_whose_group_fills_while_it_is_given_to_a_worker(turns: int) -> None:
    worker, dataset, groups = Worker(turns), Dataset(), Groups(1)

    def units() -> Iterator[list[EpisodeSpec]]:
        yield unit(0)
        worker.go_on.set()  # its end and the next unit's beginning come closer or farther by the turns
        yield unit(1)

    async with pool_of(worker) as pool:
        await asyncio.wait_for(coordinator(pool, dataset, groups).run(units(), 2), 60)
        assert pool.state.in_flight == 0
    assert (dataset.recorded, groups.cancelled) == (["e0"], 1)


@pytest.mark.parametrize("turns", TURNS)
async def test_of_units_that_are_broken_off_together(turns: int) -> None:
    worker = Worker(0)
    async with pool_of(worker) as pool:
        running = asyncio.create_task(coordinator(pool, Dataset()).run([unit(1), unit(2)], 2))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert pool.state.in_flight == 0


@pytest.mark.parametrize("turns", TURNS)
async def test_of_the_next_unit_when_the_run_drains(turns: int) -> None:
    worker = Worker(0)
    worker.go_on.set()
    async with pool_of(worker) as pool:
        draining = coordinator(pool, Dataset())
        running = asyncio.create_task(draining.run([unit(0), unit(0), unit(0)], 3))
        for _ in range(turns):
            await asyncio.sleep(0)
        draining.drain()
        await asyncio.wait_for(running, 60)
        assert pool.state.in_flight == 0
