"""Rollout workers without Ray, and what they are asked to play."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workers.records import EpisodeRecord, EpisodeResult, EpisodeSpec, info_of
from workers.rollout_worker import RolloutWorker
from workers.sandbox.pool import SandboxPool
from workers.settings import EnvironmentSettings, PolicyEndpoint, SandboxSettings, WorkerSettings

ORACLE = PolicyEndpoint(kind="oracle", model="oracle")


@contextmanager
def rollout_worker(
    environment: str,
    *,
    args: dict[str, Any] | None = None,
    policy: PolicyEndpoint = ORACLE,
    sandbox: dict[str, Any] | None = None,
    search_path: Path | None = None,
    seed: int | None = None,
) -> Iterator[RolloutWorker]:
    settings = WorkerSettings(
        run_id="test-run",
        environment=EnvironmentSettings(id=environment, args=args or {}),
        sandbox=SandboxSettings(**{"backend": "process", **(sandbox or {})}),
        policy=policy,
        episodes=8,
        search_path=search_path,
        seed=seed,
    )
    worker = RolloutWorker(settings, "test-worker")
    try:
        worker.ready()
        yield worker
    finally:
        worker.stop()


def usual_pool(worker: RolloutWorker) -> SandboxPool:
    """Where a worker has the sandboxes of the run's own image."""
    pools = worker._player._pool
    assert pools is not None
    return pools._usual


def rows(worker: RolloutWorker) -> list[dict[str, Any]]:
    return [dict(row) for row in worker._player._environment.rows()]  # type: ignore[attr-defined]


def spec(row: dict[str, Any], *, attempt: int = 1, seconds_left: float | None = None) -> EpisodeSpec:
    """An episode of a task; no two are the same."""
    return EpisodeSpec(
        episode_id=uuid.uuid4().hex[:16],
        task_id=str(info_of(row).get("task_id", row["example_id"])),
        group_id="group",
        sample_index=0,
        row=row,
        attempt=attempt,
        seconds_left=seconds_left,
    )


def played(worker: RolloutWorker, *specs: EpisodeSpec) -> list[EpisodeResult]:
    """Plays episodes, all at once."""
    with ThreadPoolExecutor(len(specs)) as threads:
        return [
            result for results in threads.map(worker.play, ([spec] for spec in specs)) for result in results
        ]


def record(result: EpisodeResult) -> EpisodeRecord:
    return EpisodeRecord.model_validate_json(result.record)
