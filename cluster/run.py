"""A run from config to dataset, stage by stage: what is cheap and may be wrong comes first."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

from cluster.config import RunConfig
from cluster.config.values import check_values
from cluster.coordinator import Coordinator
from cluster.dataset.durable import naming_place
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session, end_session
from cluster.ending import Interrupted, ShutdownSignal, run_in_turns
from cluster.errors import RunStopped
from cluster.measures import RunObservers
from cluster.observe.progress import Progress
from cluster.observe.summary import Summary, summarise_run, write_summary
from cluster.parts import RunComponents, SharedPolicy, start_components
from cluster.plan.groups import Groups
from cluster.plan.plan import Plan
from cluster.plan.resume import begun_packages, check_image, check_tasks, note_tasks, order_seed
from cluster.policy.models.description import describe_run
from workers import logs
from workers.cancellation import run_to_end


def run(config: RunConfig, target: Target, console: Console, shared: SharedPolicy | None = None) -> Summary:
    """Plays a run.

    Args:
        config: The config of the run.
        target: The folder that the run's files go to.
        console: The console that the progress is shown on.
        shared: What several runs share. None: the run has a Ray session and a policy of its own.

    Returns:
        The summary of the run.

    Raises:
        ConfigError: The config holds what cannot be kept, or the run that is taken up began with other tasks.
        RunError: The run as a whole could not be done.
        RunStopped: It has stopped by itself; the dataset holds what had ended.
        Interrupted: A signal ended it; the dataset holds what had finished.
    """
    check_values(config)
    progress = Progress(console)
    with target.held(config):
        seed, split = order_seed(target.folder, config), config.environment.split

        def check(plan: Plan) -> None:
            check_tasks(target.folder, split, plan)

        def check_id(tag: str, image_id: str | None) -> None:
            check_image(target.folder, tag, image_id)

        packages = begun_packages(target.folder, config)
        with start_components(
            config, target.run_id, progress, seed, check, check_id, shared, packages, forks=True
        ) as components:
            return asyncio.run(_play_plan(config, components, progress, target))


async def _play_plan(
    config: RunConfig,
    components: RunComponents,
    progress: Progress,
    target: Target,
) -> Summary:
    """Starts the workers, plays the plan, and leaves a committed dataset, whatever happens."""
    plan, pool = components.plan, components.pool
    shutdown = ShutdownSignal()
    stack = ExitStack()

    async def bring_up_workers(episodes: int) -> None:
        with progress.stage("workers") as stage:
            await shutdown.run_cancellable(pool.start(episodes, stage.say))
            stage.outcome = _describe_capacity(config)

    try:
        try:
            new = target.is_new
            if new:  # one that gets no workers is to leave no folder
                await bring_up_workers(plan.episodes)
            target.make(config)
            target.keep_packages(components.packages)
            sampling = components.environment_sampling
            version = components.policy.version
            description = describe_run(config, components.model, sampling)
            begin_session(target.folder, description, version, components.image_id)
            with naming_place(target.folder):
                log = logs.LogFile(target.folder / "log.jsonl", encoding="utf-8")
            logs.log_to(log, run=target.run_id)
            stack.callback(logs.stop_logging_to, log)
            async with _copying_to_uri(target, config), await target.open_dataset() as dataset:
                await note_tasks(dataset, config.environment.split, plan)
                await dataset.set_planned(plan.episodes)
                statuses = await dataset.statuses()
                left = await shutdown.run_cancellable(
                    run_in_turns(_find_remaining_work(plan, statuses, target.retry_failed))
                )
                done, surplus = left.done, left.surplus
                if failed := sum(statuses[episode] == "failed" for episode in done & statuses.keys()):
                    progress.note(
                        f"{failed:,} episodes failed before, and stay as they are; to play them again: "
                        f"kumite run --resume {target.name} --retry-failed"
                    )
                groups = Groups(config.keep, left.begun)
                skipped = len(surplus - done)
                missing = max(0, plan.episodes - len(done) - skipped)
                if not new and await shutdown.run_cancellable(run_in_turns(_has_units(plan, done | surplus))):
                    await bring_up_workers(missing)
                if again := statuses.keys() - done:
                    await dataset.forget(set(again))
                observers = RunObservers(components, target.folder, target.run_id, progress, missing)
                coordinator = Coordinator(
                    config,
                    pool,
                    dataset,
                    observers.episode_observers,
                    target.run_id,
                    components.model,
                    groups,
                    lambda: components.policy.version,
                    plan.tasks,
                )
                drain = config.episode.drain_seconds
                shutdown.set_in_flight_text(lambda: _describe_in_flight(progress.in_flight, drain))
                shutdown.set_drain(coordinator.drain)
                before = dataset.manifest.wall_seconds or 0.0
                began = time.monotonic()
                try:
                    with progress.episodes(missing):
                        async with observers.observing(config.observe.every):
                            await coordinator.run(plan.units_in_turns(done | surplus), missing)
                finally:
                    wall_seconds = before + time.monotonic() - began
                    cancelled = skipped + groups.cancelled
                    await run_to_end(dataset.commit(wall_seconds=wall_seconds, cancelled=cancelled))
                    end_session(target.folder, components.policy.version)
                    summary = summarise_run(target.folder)
                    write_summary(target.folder, summary)
        finally:
            try:
                await pool.close()
            finally:
                stack.close()
    except RunStopped as stopped:
        raise RunStopped(
            f"{stopped}\nthe run has stopped (episode.stop_after: {config.episode.stop_after}); once that is "
            f"mended, go on with: kumite run --resume {target.name} --retry-failed"
        ) from stopped
    except asyncio.CancelledError:
        if shutdown.signal is None:
            raise
        raise Interrupted(shutdown.signal, target.name) from None
    if shutdown.signal is not None:
        raise Interrupted(shutdown.signal, target.name)
    return summary


@asynccontextmanager
async def _copying_to_uri(target: Target, config: RunConfig) -> AsyncGenerator[None]:
    """Copies the local run folder to the URI that the user named, if any, for as long as the block lasts."""
    if target.remote is None:
        yield
        return
    async with target.remote.following(config.upload_seconds):
        yield


def _describe_in_flight(episodes: int, seconds: float) -> str:
    """Words what a signal means to the episodes in flight."""
    if not episodes:
        return ", and none is in flight"
    return (
        f"; the {episodes:,} in flight have {seconds:g} s to end (--drain SECONDS, or episode.drain_seconds, "
        "gives them longer), and those that have not are dropped, and played by --resume"
    )


def _describe_capacity(config: RunConfig) -> str:
    workers = config.workers
    at_once = workers.max * workers.episodes_per_worker
    return f"up to {workers.max}, {min(at_once, workers.max_in_flight or at_once)} episodes at once"


@dataclass(frozen=True)
class _RemainingWork:
    """What an earlier process has left to be played of a run."""

    done: set[str]
    """Ids of the episodes that need not be played."""
    begun: dict[str, int]
    """How many have finished of each over-sampled group that has not enough."""
    surplus: set[str]
    """Ids of the other episodes of those groups that have enough."""


def _find_remaining_work(
    plan: Plan, statuses: dict[str, str], retry_failed: bool
) -> Generator[None, None, _RemainingWork]:
    """Works out, in turns, what there is to play of a run that is taken up again."""
    finished = {i for i, status in statuses.items() if status == "finished"}
    _, surplus = yield from plan.begun_in_turns(finished)
    done = finished | (statuses.keys() & surplus) if retry_failed else set(statuses)
    done -= yield from plan.replayed_in_turns(done)
    begun, surplus = yield from plan.begun_in_turns(finished & done)
    return _RemainingWork(done, begun, surplus)


def _has_units(plan: Plan, done: set[str]) -> Generator[None, None, bool]:
    """Works out, in turns, whether anything is left to be played."""
    for unit in plan.units_in_turns(done):
        if unit is not None:
            return True
        yield
    return False
