"""A run from config to dataset, stage by stage: what is cheap and may be wrong comes first."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from rich.console import Console

from cluster.config import RunConfig, VllmPolicy
from cluster.coordinator import Coordinator
from cluster.dataset import Dataset
from cluster.ending import Ending, Interrupted
from cluster.groups import Groups
from cluster.images import ensure_image, image_of
from cluster.meter import Meter
from cluster.metrics import Exporter
from cluster.observers import Observers
from cluster.plan import Plan, load_plan
from cluster.policy import PolicyHandle, check_policy, open_policy, required_cpus
from cluster.progress import Progress
from cluster.ray_session import connect, is_local
from cluster.ray_worker import asking, resources
from cluster.run_folder import Target
from cluster.spans import Spans
from cluster.summary import Summary, summarise, write_summary
from cluster.worker_pool import WorkerPool
from workers import logs
from workers.settings import PolicyEndpoint, SandboxSettings, WorkerSettings


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
    with ExitStack() as stack:
        with progress.stage("environment") as stage:
            environment, plan = load_plan(config, target.run_id)
            stage.outcome = f"{plan.tasks} tasks, {plan.episodes} episodes"
        sandbox = config.sandbox
        if environment.toolset is not None and sandbox.backend == "docker":
            image = image_of(environment.toolset, sandbox)
            if is_local(config.ray):  # elsewhere, each node sees to its own, and this machine needs none
                with progress.stage("image") as stage:
                    stage.outcome = ensure_image(environment.toolset, sandbox, stage.say)
            sandbox = sandbox.model_copy(update={"image": image})
        check_policy(config.policy)
        spans = stack.enter_context(Spans(target.run_id)) if config.observe.spans else None
        with progress.stage("ray") as stage:
            keep = isinstance(config.policy, VllmPolicy) and config.policy.keep_alive
            cpus = required_cpus(config.policy) + config.workers.max * config.workers.cpus_per_worker
            session = stack.enter_context(connect(config.ray, keep=keep, extra_cpus=cpus))
            stage.outcome = session.address
        with progress.stage("policy") as stage:
            policy = stack.enter_context(open_policy(config.policy, session, stage.say))
            stage.outcome = policy.outcome
        settings = _worker_settings(config, sandbox, policy.endpoint(), target.run_id)
        uses_sandbox = environment.toolset is not None
        ask = asking(settings, config.workers, uses_sandbox)
        pool = WorkerPool(config.workers, ask, resources(config.workers, uses_sandbox))
        return asyncio.run(_play(config, plan, pool, progress, target, settings, policy, spans))


def _worker_settings(
    config: RunConfig,
    sandbox: SandboxSettings,
    endpoint: PolicyEndpoint,
    run_id: str,
) -> WorkerSettings:
    return WorkerSettings(
        run_id=run_id,
        environment=config.environment,
        sandbox=sandbox,
        policy=endpoint,
        episodes=config.workers.episodes_per_worker,
        seed=config.seed,
        search_path=Path.cwd(),
    )


async def _play(
    config: RunConfig,
    plan: Plan,
    pool: WorkerPool,
    progress: Progress,
    target: Target,
    settings: WorkerSettings,
    policy: PolicyHandle,
    spans: Spans | None,
) -> Summary:
    """Brings up the workers, plays the plan, and leaves a committed dataset, whatever happens."""
    ending = Ending()
    stack = ExitStack()
    try:
        try:
            with progress.stage("workers") as stage:
                await ending.guard(pool.start(plan.episodes, stage.say))
                stage.outcome = _capacity(config)
            target.make(config)
            log = logs.LogFile(target.folder / "log.jsonl", encoding="utf-8")
            logs.log_to(log, run=target.run_id)
            stack.callback(logs.stop_logging_to, log)
            async with _copied(target, config), await Dataset.open(target.folder, target.run_id) as dataset:
                await dataset.set_planned(plan.episodes)
                done, finished = await _done(plan, dataset, target)
                begun, surplus = plan.begun(finished)
                groups = Groups(config.keep, begun)
                skipped = len(surplus - done)
                missing = plan.episodes - len(done) - skipped
                meter = Meter(target.folder, Exporter(target.run_id), lambda: pool.state, missing)
                observers = Observers(progress, meter, *([spans] if spans else []))
                model = settings.policy.model
                coordinator = Coordinator(
                    config, pool, dataset, observers, target.run_id, model, groups, lambda: policy.version
                )
                ending.drain = coordinator.drain
                before = dataset.manifest.wall_seconds or 0.0
                began = time.monotonic()
                try:
                    with progress.episodes(missing):
                        async with meter.writing(config.observe.every):
                            await coordinator.run(plan.units(done | surplus), missing)
                finally:
                    wall_seconds = before + time.monotonic() - began
                    await dataset.commit(wall_seconds=wall_seconds, cancelled=skipped + groups.cancelled)
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


async def _done(plan: Plan, dataset: Dataset, target: Target) -> tuple[set[str], set[str]]:
    """Ids of the episodes that a resumed run need not play, and those of them that have finished.

    Takes those out that it plays again.
    """
    statuses = await dataset.statuses()
    finished = {i for i, status in statuses.items() if status == "finished"}
    _, surplus = plan.begun(finished)
    keep = finished | (statuses.keys() & surplus) if target.retry_failed else set(statuses)
    keep -= plan.replayed(keep)
    again = statuses.keys() - keep
    if again:
        await dataset.forget(set(again))
    return keep, finished & keep
