"""The pool with workers that come up, die and idle on command."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cluster.config import WorkersConfig
from cluster.errors import RunError
from cluster.policy.vllm.engine_metrics import EngineMetrics
from cluster.pool import worker_pool
from cluster.pool.ray_worker import NodeLost, PlayFailed, ResultLost, WorkerDied, WorkerFailed
from cluster.pool.worker_pool import WorkerPool
from workers.records import EpisodeSpec


def spec(number=0):
    return EpisodeSpec(episode_id=f"e{number}", task_id="t", group_id="g", sample_index=number, row={})


def fakes(pool: WorkerPool) -> list[Any]:
    """The pool's workers, which are `Worker`s of this file."""
    return list(pool.workers)


class Worker:
    """Plays until `gate` opens; comes up when `nodes` has one for it."""

    def __init__(self, name, cluster):
        self.name, self.cluster = name, cluster
        self.node_id = self.pid = None
        self.dead = asyncio.get_running_loop().create_future()
        self.cancelled = []

    async def wait_until_ready(self):
        if self.cluster.fails > 0:
            self.cluster.fails -= 1
            raise WorkerFailed("no Docker engine answers")
        await self.cluster.nodes.acquire()
        self.node_id = f"node of {self.name}"

    async def play(self, specs):
        self.cluster.played.append(self.name)
        playing = asyncio.ensure_future(self.cluster.gate.wait())
        await asyncio.wait([playing, self.dead], return_when=asyncio.FIRST_COMPLETED)
        playing.cancel()
        if self.dead.done():
            raise self.dead.result()
        return [spec.episode_id for spec in specs]

    def cancel(self, episode_ids):
        self.cancelled += episode_ids

    async def wait_for_end(self):
        return str(await asyncio.shield(self.dead))

    def die(self, error=None):
        self.dead.set_result(error or WorkerDied("SIGKILL"))

    async def stop(self):
        self.cluster.stopped.append(self.name)


class Cluster:
    def __init__(self, nodes=100):
        self.nodes = asyncio.Semaphore(nodes)
        self.gate = asyncio.Event()
        self.fails = 0
        self.asked, self.played, self.stopped = [], [], []

    def ask(self, name):
        self.asked.append(name)
        return Worker(name, self)


@asynccontextmanager
async def pool_of(cluster, episodes, **config):
    config = {"max": 4, "episodes_per_worker": 2, "idle_seconds": 0.0, **config}
    pool = WorkerPool(WorkersConfig(**config), cluster.ask, {"sandbox": 1.0})
    try:
        await pool.start(episodes)
        yield pool
    finally:
        await pool.close()


async def play(pool, *unit):
    return await pool.play(list(unit), await pool.acquire_seat(len(unit)))


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_as_many_workers_as_the_backlog_can_use():
    cluster = Cluster()
    async with pool_of(cluster, 5) as pool:
        await until(lambda: pool.state.up == 3)
        pool.expect(100)
        await until(lambda: pool.state.up == 4)
    assert len(cluster.asked) == 4
    assert sorted(cluster.stopped) == cluster.asked


async def test_idle_workers_are_given_back_down_to_the_minimum():
    cluster = Cluster()
    async with pool_of(cluster, 8, min=2) as pool:
        await until(lambda: pool.state.up == 4)
        pool.expect(1)
        await until(lambda: pool.state.up == 2)
        assert cluster.stopped == ["worker-0004", "worker-0003"]


async def test_workers_that_are_held_stay_though_nothing_is_expected():
    cluster = Cluster()
    async with pool_of(cluster, 8) as pool:
        await until(lambda: pool.state.up == 4)
        pool.keep_workers_for(4)
        pool.keep_workers_for(2)
        pool.expect(0)
        await until(lambda: pool.state.up < 4)
        assert pool.state.up == 2, "all that are idle and not held go at once"


async def test_a_worker_with_episodes_is_not_given_back():
    cluster = Cluster()
    async with pool_of(cluster, 4) as pool:
        await until(lambda: pool.state.up == 2)
        playing = [asyncio.create_task(play(pool, spec(i))) for i in range(4)]
        await until(lambda: pool.state.in_flight == 4)
        pool.expect(2)
        await asyncio.sleep(0.05)
        assert pool.state.up == 2
        cluster.gate.set()
        await asyncio.gather(*playing)
        await until(lambda: pool.state.up == 1)


async def test_idle_workers_stay_for_a_while():
    async with pool_of(Cluster(), 8, idle_seconds=60) as pool:
        await until(lambda: pool.state.up == 4)
        pool.expect(0)
        await asyncio.sleep(0.05)
        assert pool.state.up == 4


async def test_workers_without_a_node_keep_nobody_waiting():
    cluster = Cluster(nodes=1)
    async with pool_of(cluster, 100) as pool:
        assert (pool.state.up, pool.state.pending) == (1, 3)
        cluster.gate.set()
        assert await play(pool, spec()) == ["e0"]
        pool.expect(1)
        await until(lambda: pool.state.pending == 0)


async def test_no_workers_beyond_what_the_policy_is_to_take():
    cluster = Cluster()
    async with pool_of(cluster, 100, max_in_flight=3) as pool:
        await until(lambda: pool.state.up == 2)
        playing = [asyncio.create_task(play(pool, spec(i))) for i in range(5)]
        await until(lambda: pool.state.in_flight == 3)
        await asyncio.sleep(0.02)
        assert pool.state.in_flight == 3
        cluster.gate.set()
        assert len(await asyncio.gather(*playing)) == 5


async def test_a_policy_with_a_queue_gets_no_more_episodes_and_the_run_no_more_workers():
    cluster = Cluster(nodes=2)
    async with pool_of(cluster, 100) as pool:
        await until(lambda: pool.state.up == 2)
        assert pool.state.pending == 2
        playing = [asyncio.create_task(play(pool, spec(i))) for i in range(4)]
        await until(lambda: pool.state.in_flight == 4)
        for _ in range(5):
            await pool.apply_metrics(EngineMetrics(running=2, waiting=2))
        assert pool.state.limit == 3
        await until(lambda: pool.state.pending == 0)
        waiting = asyncio.create_task(play(pool, spec(5)))
        cluster.gate.set()
        await asyncio.gather(*playing, waiting)
        for _ in range(10):
            await pool.apply_metrics(EngineMetrics(running=2, waiting=0))
        assert pool.state.limit == 5
        await until(lambda: pool.state.pending == 1)


async def test_a_policy_with_a_queue_is_left_alone_where_the_config_says_so():
    async with pool_of(Cluster(), 100, headroom="off") as pool:
        for _ in range(5):
            await pool.apply_metrics(EngineMetrics(running=2, waiting=50))
        assert pool.state.limit is None


async def test_a_unit_that_waits_for_headroom_starts_when_it_comes():
    cluster = Cluster()
    async with pool_of(cluster, 100) as pool:
        await until(lambda: pool.state.up == 4)
        for _ in range(5):
            await pool.apply_metrics(EngineMetrics(running=1, waiting=9))
        assert pool.state.limit == 2
        playing = [asyncio.create_task(play(pool, spec(i))) for i in range(3)]
        await until(lambda: pool.state.in_flight == 2)
        await asyncio.sleep(0.02)
        assert pool.state.in_flight == 2
        for _ in range(5):
            await pool.apply_metrics(EngineMetrics(running=1, waiting=0))
        await until(lambda: pool.state.in_flight == 3)
        cluster.gate.set()
        await asyncio.gather(*playing)


async def test_a_worker_that_dies_idle_costs_no_episode_anything():
    cluster = Cluster()
    async with pool_of(cluster, 2, max=1) as pool:
        [worker] = fakes(pool)
        worker.die()
        await until(lambda: pool.state.lost == 1)
        cluster.gate.set()
        assert await play(pool, spec()) == ["e0"]
        assert cluster.played == ["worker-0002"]


async def test_a_worker_that_dies_under_a_unit_is_replaced():
    cluster = Cluster()
    async with pool_of(cluster, 2, max=1) as pool:
        playing = asyncio.create_task(play(pool, spec()))
        await until(lambda: pool.state.in_flight == 1)
        fakes(pool)[0].die(NodeLost("its node has died"))
        with pytest.raises(NodeLost):
            await playing
        await until(lambda: pool.state.up == 1)
        assert (pool.state.lost, cluster.asked) == (1, ["worker-0001", "worker-0002"])


@pytest.mark.parametrize("failure", [PlayFailed("a bug"), ResultLost("they were on another node")])
async def test_a_worker_that_raises_or_whose_results_are_lost_is_kept(failure):
    cluster = Cluster()
    async with pool_of(cluster, 2, max=1) as pool:
        [worker] = pool.workers

        async def fail(specs):
            raise failure

        worker.play = fail
        with pytest.raises(type(failure)):
            await play(pool, spec())
        assert pool.workers == [worker]


async def test_a_unit_that_is_given_up_is_cancelled_on_its_worker():
    cluster = Cluster()
    async with pool_of(cluster, 2) as pool:
        playing = asyncio.create_task(play(pool, spec(7)))
        await until(lambda: pool.state.in_flight == 1)
        playing.cancel()
        await asyncio.wait([playing])
        assert fakes(pool)[0].cancelled == ["e7"]
        assert pool.state.in_flight == 0


async def test_no_worker_at_all_is_an_error_that_says_why():
    cluster = Cluster()
    cluster.fails = 9
    with pytest.raises(RunError, match="no worker came up: no Docker engine answers"):
        async with pool_of(cluster, 2):
            pass


async def test_workers_that_never_get_a_node_are_an_error_in_the_end():
    cluster = Cluster(nodes=0)
    with pytest.raises(RunError, match=r"waiting for a node with room for sandbox 1: 1") as raised:
        async with pool_of(cluster, 2, start_timeout=0.1):
            pass
    assert "workers.start_timeout, 0.1 s" in str(raised.value)
    assert cluster.stopped == ["worker-0001"]


async def test_a_run_goes_on_when_some_workers_fail_to_come_up():
    cluster = Cluster()
    cluster.fails = 1
    async with pool_of(cluster, 4) as pool:
        cluster.gate.set()
        assert pool.state.up == 1
        assert await play(pool, spec()) == ["e0"]


async def test_a_run_that_has_lost_all_workers_says_what_it_waits_for(monkeypatch, caplog):
    monkeypatch.setattr(worker_pool, "_WAIT_WARNING_AFTER", 0.01)
    async with pool_of(Cluster(nodes=1), 1) as pool:
        fakes(pool)[0].die()
        await until(lambda: "no worker is up: " in caplog.text)
        assert "a node with room for sandbox 1" in caplog.text
