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
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session, end_session
from cluster.ending import Ending, Interrupted, in_turns
from cluster.errors import RunStopped
from cluster.measures import Measures
from cluster.observe.progress import Progress
from cluster.observe.summary import Summary, summarise, write_summary
from cluster.parts import Parts, SharedPolicy, brought_up
from cluster.plan.groups import Groups
from cluster.plan.plan import Plan
from cluster.plan.resume import check_image, check_tasks, note_tasks, order_seed
from cluster.policy.models.description import describe_run
from workers import logs
from workers.cancellation import run_to_end


def run(config: RunConfig, target: Target, console: Console, shared: SharedPolicy | None = None) -> Summary:
    """Does a run.

    Args:
        config: What to do.
        target: Where the run's files go.
        console: Where to tell how it goes.
        shared: What several runs share. None: the run has a Ray session and a policy of its own.

    Returns:
        What it came to.

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

        with brought_up(config, target.run_id, progress, seed, check, check_id, shared) as parts:
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
            new = target.is_new
            if new:  # one that gets no workers is to leave no folder
                await bring_up_workers(plan.episodes)
            target.make(config)
            sampling = parts.environment_sampling
            version = parts.policy.version
            description = describe_run(config, parts.model, sampling)
            begin_session(target.folder, description, version, parts.image_id)
            log = logs.LogFile(target.folder / "log.jsonl", encoding="utf-8")
            logs.log_to(log, run=target.run_id)
            stack.callback(logs.stop_logging_to, log)
            async with _copied(target, config), await target.open_dataset() as dataset:
                await note_tasks(dataset, config.environment.split, plan)
                await dataset.set_planned(plan.episodes)
                statuses = await dataset.statuses()
                left = await ending.guard(in_turns(_left(plan, statuses, target.retry_failed)))
                done, surplus = left.done, left.surplus
                if failed := sum(statuses[episode] == "failed" for episode in done & statuses.keys()):
                    progress.note(
                        f"{failed:,} episodes failed before, and stay as they are; to play them again: "
                        f"kumite run --resume {target.name} --retry-failed"
                    )
                groups = Groups(config.keep, left.begun)
                skipped = len(surplus - done)
                missing = max(0, plan.episodes - len(done) - skipped)
                if not new and await ending.guard(in_turns(_has_units(plan, done | surplus))):
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
                    plan.tasks,
                )
                drain = config.episode.drain_seconds
                ending.tell(lambda: _in_flight(progress.in_flight, drain))
                ending.call(coordinator.drain)
                before = dataset.manifest.wall_seconds or 0.0
                began = time.monotonic()
                try:
                    with progress.episodes(missing):
                        async with measures.taken(config.observe.every):
                            await coordinator.run(plan.units_in_turns(done | surplus), missing)
                finally:
                    wall_seconds = before + time.monotonic() - began
                    cancelled = skipped + groups.cancelled
                    await run_to_end(dataset.commit(wall_seconds=wall_seconds, cancelled=cancelled))
                    end_session(target.folder, parts.policy.version)
                    summary = summarise(target.folder)
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


def _in_flight(episodes: int, seconds: float) -> str:
    """What a signal means to the episodes in flight, in words."""
    if not episodes:
        return ", and none is in flight"
    return (
        f"; the {episodes:,} in flight have {seconds:g} s to end (--drain SECONDS, or episode.drain_seconds, "
        "gives them longer), and those that have not are dropped, and played by --resume"
    )


def _capacity(config: RunConfig) -> str:
    workers = config.workers
    at_once = workers.max * workers.episodes_per_worker
    return f"up to {workers.max}, {min(at_once, workers.max_in_flight or at_once)} episodes at once"


@dataclass(frozen=True)
class _Left:
    """What an earlier process has left of a run."""

    done: set[str]
    """Ids of the episodes that need not be played."""
    begun: dict[str, int]
    """How many have finished of each over-sampled group that has not enough."""
    surplus: set[str]
    """Ids of the other episodes of those groups that have enough."""


def _left(plan: Plan, statuses: dict[str, str], retry_failed: bool) -> Generator[None, None, _Left]:
    """Works out, in turns, what there is to play of a run that is taken up again."""
    finished = {i for i, status in statuses.items() if status == "finished"}
    _, surplus = yield from plan.begun_in_turns(finished)
    done = finished | (statuses.keys() & surplus) if retry_failed else set(statuses)
    done -= yield from plan.replayed_in_turns(done)
    begun, surplus = yield from plan.begun_in_turns(finished & done)
    return _Left(done, begun, surplus)


def _has_units(plan: Plan, done: set[str]) -> Generator[None, None, bool]:
    """Works out, in turns, whether anything is left to be played."""
    for unit in plan.units_in_turns(done):
        if unit is not None:
            return True
        yield
    return False
