"""`kumite rescore`: a run's episodes scored again without being played, as a run of its own."""

import asyncio
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from cluster.config import RunConfig
from cluster.config.file import load_config
from cluster.dataset.arrow import pq
from cluster.dataset.episodes import iterate_records
from cluster.dataset.manifest import load_manifest
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import NAME as RUN_RECORD
from cluster.errors import ConfigError
from cluster.observe.summary import Summary, summarise_run, write_summary
from cluster.plan.plan import load_plan
from workers.environments.agentdojo.rescoring import StateScorer, StateUnknown
from workers.environments.agentdojo.rewards import Metric, RewardSettings, security_metrics, weigh_metrics
from workers.environments.agentdojo.tasks import TaskSelection
from workers.environments.classic.environment import ClassicEnvironment
from workers.environments.classic.rescoring import NewScore
from workers.record_digest import digest_of
from workers.records import EpisodeError, EpisodeRecord, EpisodeResult, TaskLabels
from workers.settings import Split

_AGENTDOJO = "agentdojo"
_Groups: TypeAlias = dict[str, list[EpisodeRecord]]


def rescore_run(
    run_dir: Path, overrides: Iterable[str] = (), out: str | None = None, say: Callable[[str], None] = print
) -> tuple[str, Summary]:
    """Scores a run's episodes again and writes them as a new run, which names the old one.

    An environment's rubric is asked over the recorded messages, AgentDojo's checks over the recorded states.

    Args:
        run_dir: The run's folder.
        overrides: Keys of `environment.args` to change: `environment.args.KEY=value`.
        out: The new run's folder. None: the old one's name and `-rescored`, beside it.
        say: Takes a line on what is being done.

    Returns:
        The new run's folder, and its summary.

    Raises:
        ConfigError: The environment cannot score without playing, or lacks a task; or the folder is taken.
        ManifestError: The folder holds no run.
    """
    changes = list(overrides)
    for change in changes:
        if not change.startswith("environment.args."):
            raise ConfigError(
                f"--set {change}: `kumite rescore` plays nothing; set environment.args.KEY only"
            )
    old = load_manifest(run_dir)
    config = load_config(run_dir / "config.yaml", changes).model_copy(update={"limit": None})
    place = out or f"{str(run_dir).rstrip('/')}-rescored"
    target = Target.new(config, place)
    if config.environment.id == _AGENTDOJO:
        scores = _score_agentdojo(run_dir, config, say)
    else:
        scores = asyncio.run(_ask_rubric(run_dir, config, target.run_id, say))
    with target.held(config):
        asyncio.run(_write(run_dir, target, scores, old.run_id))
    summary = summarise_run(target.folder)
    write_summary(target.folder, summary)
    return target.name, summary


def _is_played(record: EpisodeRecord) -> bool:
    """Whether an episode was played to its end: it finished, or failed when it was scored."""
    return record.status == "finished" or (record.error is not None and record.error.stage == "scoring")


def _score_agentdojo(
    run_dir: Path, config: RunConfig, say: Callable[[str], None]
) -> dict[str, NewScore | Exception]:
    """New scores by AgentDojo's checks over the recorded states; without states, from recorded metrics.

    Raises:
        ConfigError: Steps are rewarded: what happened at which step is not recorded. Or AgentDojo here is
            not the one that played.
    """
    arguments = config.environment.args
    given = {name: arguments[name] for name in RewardSettings.model_fields if name in arguments}
    reward = RewardSettings.model_validate(given).rubric()
    if reward.steps:
        raise ConfigError(
            f"rescore: environment.args.reward {given.get('reward')!r} rewards single steps "
            f"({', '.join(reward.steps)}), which only playing can tell; give another, or step_reward: {{}}"
        )
    version = arguments.get("version", TaskSelection.model_fields["version"].default)
    try:
        scorer = StateScorer(version, arguments.get("suites") or [], config.environment.folder)
    except Exception as error:  # whatever AgentDojo, or a module of the user's own, raises
        raise ConfigError(f"rescore: environment.args.version {version!r}: {error}") from error
    bases = {state_id: json.loads(text) for state_id, text in _read_states(run_dir).items()}
    scores: dict[str, NewScore | Exception] = {}
    by_state, changed = 0, 0
    for record in iterate_records(run_dir):
        if record.status != "finished":
            continue
        recorded: dict[Metric, float | None] = json.loads(record.metrics)
        found = security_metrics(recorded.get("utility"), recorded.get("attack_success"))
        if scorer.has_states(record) and record.initial_state_id in bases:
            try:
                found = scorer.score(record, bases[record.initial_state_id])
            except StateUnknown as error:
                raise ConfigError(f"rescore: episode {record.episode_id}: {error}") from error
            except Exception as error:  # noqa: BLE001 - a check may raise anything
                scores[record.episode_id] = error
                continue
            by_state += 1
            changed += any(recorded.get(name, value) != value for name, value in found.items())
        values: dict[Metric, float | None] = {**recorded, **found}
        kept = {name: values[name] for name in values if name in recorded or name in reward.weights}
        none: list[float | None] = [None] * len(record.steps)
        scores[record.episode_id] = NewScore(weigh_metrics(reward, values), dict(kept), none)
    say(
        f"{by_state:,} of {len(scores):,} episodes scored from their states, {changed:,} with another "
        "result; the metrics of the others stay"
    )
    return scores


async def _ask_rubric(
    run_dir: Path, config: RunConfig, run_id: str, say: Callable[[str], None]
) -> dict[str, NewScore | Exception]:
    by_split: dict[Split, _Groups] = {}
    for record in iterate_records(run_dir):
        if _is_played(record):
            split = record.split or config.environment.split
            by_split.setdefault(split, defaultdict(list))[record.group_id].append(record)
    scores: dict[str, NewScore | Exception] = {}
    for split, groups in by_split.items() or [(config.environment.split, {})]:
        settings = config.environment.model_copy(update={"split": split})
        own = config.model_copy(update={"environment": settings})
        scores |= await _score_groups(groups, own, run_id, say)
    return scores


async def _score_groups(
    groups: "_Groups", config: RunConfig, run_id: str, say: Callable[[str], None]
) -> dict[str, NewScore | Exception]:
    """New scores by the rubric of one split's environment, which is asked for a group at a time."""
    environment, plan = load_plan(config, run_id)
    if not isinstance(environment, ClassicEnvironment):
        raise ConfigError(
            f"rescore: {config.environment.id} is a taskset of verifiers' v1 API, or has packages of its own "
            "(environment.requirements); such environments cannot be scored again yet, only played again"
        )
    if environment.toolset is not None:
        raise ConfigError(
            f"rescore: {config.environment.id} scores in its sandbox while an episode's files are there; it "
            "can only be played again"
        )
    tasks = list(dict.fromkeys(records[0].task_id for records in groups.values()))
    say(f"scoring {sum(map(len, groups.values())):,} episodes of {len(tasks):,} tasks")
    scores: dict[str, NewScore | Exception] = {}
    try:
        rows = dict(zip(tasks, plan.named(tasks), strict=True))
        for group in groups.values():
            records = sorted(group, key=lambda record: record.sample_index)
            found = await environment.score_records(rows[records[0].task_id], records)
            scores |= {record.episode_id: score for record, score in zip(records, found, strict=True)}
    finally:
        await environment.tear_down()
    return scores


async def _write(
    run_dir: Path, target: Target, scores: dict[str, NewScore | Exception], old_run: str
) -> None:
    if (run_dir / RUN_RECORD).is_file():
        shutil.copyfile(run_dir / RUN_RECORD, target.folder / RUN_RECORD)
    async with await target.open_dataset() as dataset:
        await dataset.set_origin(old_run)
        await dataset.add_states(_read_states(run_dir))
        count = 0
        for record in iterate_records(run_dir):
            made = _with_score(record, scores.get(record.episode_id), target.run_id)
            await dataset.append(_to_result(made))
            count += 1
        old = load_manifest(run_dir)
        planned = count if old.planned is None else max(old.planned, count + old.cancelled)
        await dataset.set_planned(planned, old.loop)
        await dataset.commit(cancelled=old.cancelled)


def _read_states(run_dir: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((run_dir / "states").glob("[!.]*.parquet")):
        found |= {row["state_id"]: row["state"] for row in pq.read_table(path).to_pylist()}
    return found


def _with_score(record: EpisodeRecord, score: NewScore | Exception | None, run_id: str) -> EpisodeRecord:
    """The record of the new run; an episode that was not played to its end stays failed as it was."""
    group = f"{record.run_id}/{record.task_id}"
    # Of a loop, the iteration, which tells groups of one task apart.
    suffix = record.group_id.removeprefix(group) if record.group_id.startswith(group) else ""
    changes: dict[str, Any] = {"run_id": run_id, "group_id": f"{run_id}/{record.task_id}{suffix}"}
    if isinstance(score, NewScore):
        rewards = score.step_rewards or [None] * len(record.steps)
        steps = [
            step.model_copy(update={"reward": reward})
            for step, reward in zip(record.steps, rewards, strict=True)
        ]
        changes |= {"status": "finished", "error": None, "reward": score.reward, "steps": steps}
        changes["metrics"] = json.dumps(score.metrics)
    elif score is not None:
        error = EpisodeError.of("scoring", "environment", score)
        changes |= {"status": "failed", "error": error, "reward": None, "metrics": "{}"}
    made = record.model_copy(update=changes)
    return made.model_copy(update={"digest": digest_of(made)})


def _to_result(record: EpisodeRecord) -> EpisodeResult:
    return EpisodeResult(
        episode_id=record.episode_id,
        status=record.status,
        reward=record.reward,
        metrics=json.loads(record.metrics),
        labels=TaskLabels(),
        usage=record.usage,
        timings=record.timings,
        record=record.model_dump_json(),
    )
