"""A rollout engine with its real pool, coordinator and dataset, whose workers are in this process."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.parts import RunComponents
from cluster.plan.plan import Plan
from cluster.policy.oracle import OraclePolicyClient
from cluster.pool.worker_pool import WorkerPool
from cluster.rollout_engine import RolloutEngine
from tests.cluster.synthetic import episode, result
from workers.environments.base import TaskEnvironment
from workers.records import EpisodeResult, EpisodeSpec


class Stage:
    """Where the workers of a test play: a unit takes some turns of the event loop, or waits at the gate."""

    def __init__(self, turns: int = 3) -> None:
        self.turns = turns
        self.open = asyncio.Event()
        self.open.set()
        self.free = 0
        """Units that the gate lets through, though it is closed."""
        self.holds = ""
        """The gate is for units whose group's id ends so."""
        self.playing = 0
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.stopped: list[str] = []

    def ask(self, name: str) -> "StageWorker":
        return StageWorker(name, self)


class StageWorker:
    node_id: str | None = "here"
    pid: int | None = 1

    def __init__(self, name: str, stage: Stage) -> None:
        self.name = name
        self.stage = stage

    async def wait_until_ready(self) -> None:
        await asyncio.sleep(0)

    async def play(self, specs: list[EpisodeSpec]) -> list[EpisodeResult]:
        stage = self.stage
        stage.playing += 1
        try:
            for _ in range(stage.turns):
                await asyncio.sleep(0)
            if stage.free:
                stage.free -= 1
            elif specs[0].group_id.endswith(stage.holds):
                await stage.open.wait()
        finally:
            stage.playing -= 1
        stage.ended += [spec.episode_id for spec in specs]
        fields = ("episode_id", "task_id", "group_id", "sample_index")
        return [result(episode(0, **{name: getattr(spec, name) for name in fields})) for spec in specs]

    def cancel(self, episode_ids: Collection[str]) -> None:
        self.stage.cancelled += episode_ids

    def set_version(self, version: int) -> None: ...

    async def wait_for_end(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.stage.stopped.append(self.name)


class Tasks(TaskEnvironment):
    """An environment of so many tasks, by name."""

    toolset = None
    needs_groups = False

    def __init__(self, tasks: int) -> None:
        self.read = 0
        self.data = [
            {
                "example_id": i,
                "prompt": [{"role": "user", "content": f"task {i}"}],
                "info": {"task_id": f"t{i}"},
            }
            for i in range(tasks)
        ]

    def rows(self) -> Any:
        return self

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        return self.data[index]


def config_of(**fields: Any) -> RunConfig:
    base = {"environment": {"id": "e"}, "policy": {"kind": "oracle"}, "samples": 2}
    workers = {"max": 2, "episodes_per_worker": 2, **fields.pop("workers", {})}
    return RunConfig.model_validate({**base, "workers": workers, **fields})


def stage_engine(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    stage: Stage,
    tasks: Any,
    *,
    resume: bool = False,
    **fields: Any,
) -> RolloutEngine:
    """An engine whose parts are brought up on a stage, in place of Ray."""
    config = config_of(**fields)

    @contextmanager
    def parts(
        config: RunConfig,
        run_id: str,
        progress: Any,
        seed: str | None = None,
        check: Any = None,
        *_: Any,
        **__: Any,
    ) -> Iterator[RunComponents]:
        plan = Plan(config, tasks, run_id, seed)
        if check is not None:
            check(plan)
        pool = WorkerPool(config.workers, stage.ask)
        yield RunComponents(plan, lambda split: plan, OraclePolicyClient(), pool, "oracle", None)

    monkeypatch.setattr("cluster.rollout_engine.start_components", parts)
    return RolloutEngine(config, folder, resume=resume)
