"""A run from config to dataset, stage by stage: what is cheap and may be wrong comes first."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager

from rich.console import Console

from cluster.config import RunConfig
from cluster.coordinator import Coordinator
from cluster.dataset.dataset import Dataset
from cluster.dataset.manifest import manifest_path
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session, end_session
from cluster.ending import Ending, Interrupted
from cluster.groups import Groups
from cluster.observe.measures import Measures
from cluster.observe.progress import Progress
from cluster.observe.summary import Summary, summarise, write_summary
from cluster.parts import Parts, brought_up
from cluster.plan import Plan
from workers import logs


def run(config: RunConfig, target: Target, console: Console) -> Summary:
    """Does a run.

    Args:
        config: What to do.
        target: Where the run's files go.
        console: Where to tell how it goes.

    Returns:
        What it came to.

    Raises:
        RunError: The run as a whole could not be done.
        Interrupted: A signal ended it; the dataset holds what had finished.
    """
    progress = Progress(console)
    with brought_up(config, target.run_id, progress) as parts:
        return asyncio.run(_play(config, parts, progress, target))


async def _play(
    config: RunConfig,
    parts: Parts,
    progress: Progress,
    target: Target,
) -> Summary:
    """Brings up the workers, plays the plan, and leaves a committed dataset, whatever happens."""
    plan, pool = parts.plan, parts.pool
    ending = Ending()
    stack = ExitStack()

    async def bring_up_workers(episodes: int) -> None:
        with progress.stage("workers") as stage:
            await ending.guard(pool.start(episodes, stage.say))
            stage.outcome = _capacity(config)

    try:
        try:
            new = not manifest_path(target.folder).exists()
            if new:  # one that gets no workers is to leave no folder
                await bring_up_workers(plan.episodes)
            target.make(config)
            sampling = parts.environment_sampling
            begin_session(target.folder, config, parts.model, sampling, parts.policy.version)
            log = logs.LogFile(target.folder / "log.jsonl", encoding="utf-8")
            logs.log_to(log, run=target.run_id)
            stack.callback(logs.stop_logging_to, log)
            async with _copied(target, config), await Dataset.open(target.folder, target.run_id) as dataset:
                await dataset.set_planned(plan.episodes)
                statuses = await dataset.statuses()
                done, finished = _done(plan, statuses, target)
                begun, surplus = plan.begun(finished)
                groups = Groups(config.keep, begun)
                skipped = len(surplus - done)
                missing = max(0, plan.episodes - len(done) - skipped)
                if not new and next(plan.units(done | surplus), None):
                    await bring_up_workers(missing)
                if again := statuses.keys() - done:
                    await dataset.forget(set(again))
                measures = Measures(parts, target.folder, target.run_id, progress, missing)
                coordinator = Coordinator(
                    config,
                    pool,
                    dataset,
                    measures.observers,
                    target.run_id,
                    parts.model,
                    groups,
                    lambda: parts.policy.version,
                )
                ending.call(coordinator.drain)
                before = dataset.manifest.wall_seconds or 0.0
                began = time.monotonic()
                try:
                    with progress.episodes(missing):
                        async with measures.taken(config.observe.every):
                            await coordinator.run(plan.units(done | surplus), missing)
                finally:
                    wall_seconds = before + time.monotonic() - began
                    await dataset.commit(wall_seconds=wall_seconds, cancelled=skipped + groups.cancelled)
                    end_session(target.folder, parts.policy.version)
                    summary = summarise(target.folder)
                    write_summary(target.folder, summary)
        finally:
            await pool.close()
            stack.close()
    except asyncio.CancelledError:
        if ending.signal is None:
            raise
        raise Interrupted(ending.signal, target.name) from None
    if ending.signal is not None:
        raise Interrupted(ending.signal, target.name)
    return summary


@asynccontextmanager
async def _copied(target: Target, config: RunConfig) -> AsyncGenerator[None]:
    """Where the user has named a URI: has the folder there follow the local one, to its end."""
    if target.remote is None:
        yield
        return
    async with target.remote.following(config.upload_seconds):
        yield


def _capacity(config: RunConfig) -> str:
    workers = config.workers
    at_once = workers.max * workers.episodes_per_worker
    return f"up to {workers.max}, {min(at_once, workers.max_in_flight or at_once)} episodes at once"


def _done(plan: Plan, statuses: dict[str, str], target: Target) -> tuple[set[str], set[str]]:
    """Ids of the episodes that a resumed run need not play, and those of them that have finished."""
    finished = {i for i, status in statuses.items() if status == "finished"}
    _, surplus = plan.begun(finished)
    keep = finished | (statuses.keys() & surplus) if target.retry_failed else set(statuses)
    keep -= plan.replayed(keep)
    return keep, finished & keep
