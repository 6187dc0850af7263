"""The summary of a run, computed from its files alone."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import Field

from cluster.dataset.arrow import pc
from cluster.dataset.durable import naming_place, replacing
from cluster.dataset.manifest import load_manifest
from cluster.dataset.shards import iterate_episodes
from cluster.observe.cost import Cost, compute_cost, read_price
from cluster.observe.failure_groups import FailureGroup, FailureGroups
from cluster.observe.intervals import Estimate, TaskValues
from cluster.observe.pass_rates import PassRate, compute_pass_rates
from cluster.observe.policy_use import PolicyShares, compute_policy_shares
from cluster.observe.rates import Mode, ScoreRow, Scores, episode_mode
from cluster.observe.tally import Mean
from workers.records import Record, Stage, Timings

_Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_COLUMNS = (
    "episode_id",
    "task_id",
    "environment",
    "suite",
    "user_task",
    "injection_task",
    "attack",
    "status",
    "reward",
    "metrics",
    "error",
    "usage",
    "timings",
)
_STAGES = tuple(Timings.model_fields)


class Seconds(Record):
    """Seconds that finished episodes took."""

    mean: float
    """Mean."""
    p50: float
    """Median."""
    p95: float
    """95th percentile."""


class SummaryRow(Record):
    """The episodes of one suite in one mode; in an environment without suites, all of them."""

    suite: str
    """The suite, or the environment's id where there are no suites."""
    mode: Mode | None
    """`benign`: a user task alone. `attack`: a user task under attack. `injection`: an injection task
    alone. Null where there are no suites."""
    episodes: int
    """Episodes that ended, failed ones included."""
    failed: int
    """Episodes that failed; they are in no mean."""
    reward: float | None
    """Mean reward of the finished episodes."""
    utility: float | None
    """Mean of the metric `utility`. Null where no episode has it."""
    attack_success: float | None
    """Mean of the metric `attack_success`. Null where no episode has it."""


class Summary(Record):
    """The summary of a run: its counts, scores and times."""

    run_id: str
    """The run."""
    environment: str | None
    """The environment's id. Null when no episode has ended."""
    planned: int | None
    """Episodes that the run was to have. Null where that is not known."""
    finished: int
    """Episodes that finished."""
    failed: int
    """Episodes that failed."""
    cancelled: int = 0
    """Episodes that are not there since their group had enough without them (`keep`)."""
    failures: dict[Stage, int]
    """Failed episodes by the stage in which they failed."""
    failure_groups: list[FailureGroup] = Field(default_factory=list[FailureGroup])
    """The same by stage, class of the error and first line of its message; the most frequent cause first."""
    reward: float | None
    """Mean reward of the finished episodes. Null when there are none."""
    metrics: dict[str, float]
    """Mean of each metric over the finished episodes in which it is not null."""
    means: dict[str, Estimate] = Field(default_factory=dict[str, Estimate])
    """Reward and metrics with their 95 % intervals, which take samples of one task as dependent."""
    passes: list[PassRate] = Field(default_factory=list[PassRate])
    """pass@k and pass^k of the reward and of each metric that is 0 or 1. Empty where no task has two finished
    samples."""
    rows: list[SummaryRow]
    """The reward and some metrics by suite and mode."""
    scores: list[ScoreRow] = Field(default_factory=list[ScoreRow])
    """Utility and attack success by mode, suite, attack and injection task, with their intervals. Empty
    where there are no suites."""
    seconds: dict[str, Seconds]
    """Time of each stage over the finished episodes; empty when there are none."""
    prompt_tokens: int
    """Tokens of all prompts, those of failed episodes included."""
    completion_tokens: int
    """Tokens sampled, those of failed episodes included."""
    cached_tokens: int | None = None
    """Tokens of prompts that the policy's server had in its cache. Null where it did not say."""
    cost: Cost | None = None
    """What the tokens cost. Null where the config has no `policy.price`."""
    policy: PolicyShares | None = None
    """How busy the policy's deployment was. Null where it could not tell."""
    wall_seconds: float | None
    """Seconds the run took. Null where that is not known."""
    episodes_per_second: float | None
    """Episodes that ended per second of it."""


class _EpisodeTally:
    """What is counted of a set of episodes."""

    def __init__(self) -> None:
        self.finished = 0
        self.failed = 0
        self.reward = Mean()
        self.metrics: defaultdict[str, Mean] = defaultdict(Mean)

    def add(self, episode: dict[str, Any], metrics: dict[str, float | None]) -> None:
        if episode["status"] == "failed":
            self.failed += 1
            return
        self.finished += 1
        self.reward.add(episode["reward"])
        for name, value in metrics.items():
            self.metrics[name].add(value)

    def metric(self, name: str) -> float | None:
        return self.metrics[name].value if name in self.metrics else None


def summarise_run(run_dir: Path, *, planned: int | None = None, wall_seconds: float | None = None) -> Summary:
    """Summarise a run from its shards and its journal; the run may still be at work.

    Memory is that of one batch of episodes, the names of the tasks, and some 100 bytes for each finished
    episode, 12 more for each metric.

    Args:
        run_dir: The run folder.
        planned: Episodes that the run was to have. Null: what the manifest says.
        wall_seconds: Seconds the run took. Null: what the manifest says.

    Raises:
        ManifestError: The folder holds no run, or one of another format version.
        JournalCorrupt: The journal is damaged.
    """
    manifest = load_manifest(run_dir)
    if planned is None:
        planned = manifest.planned
    if wall_seconds is None:
        wall_seconds = manifest.wall_seconds

    environment: str | None = None
    overall = _EpisodeTally()
    scores = Scores()
    by_row: defaultdict[tuple[str, Mode | None], _EpisodeTally] = defaultdict(_EpisodeTally)
    failures: defaultdict[Stage, int] = defaultdict(int)
    causes = FailureGroups()
    tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    cached: int | None = None
    tasks: dict[str, int] = {}
    values: defaultdict[str, TaskValues] = defaultdict(TaskValues)
    timings: list[_Floats] = []
    for table in iterate_episodes(run_dir, _COLUMNS):
        for episode in table.drop_columns(["usage", "timings"]).to_pylist():
            environment = episode["environment"]
            metrics: dict[str, float | None] = json.loads(episode["metrics"])
            overall.add(episode, metrics)
            task = tasks.setdefault(episode["task_id"], len(tasks))
            scores.add(episode, metrics, task)
            if episode["status"] == "finished":
                values["reward"].add(episode["reward"], task)
                for name in metrics.keys() - {"reward"}:
                    values[name].add(metrics[name], task)
            by_row[_read_row(episode)].add(episode, metrics)
            if episode["status"] == "failed":
                failures[episode["error"]["stage"]] += 1
                causes.add(episode["episode_id"], episode["error"])
        for name in tokens:
            tokens[name] += pc.sum(pc.struct_field(table["usage"], name)).as_py()
        some: int | None = pc.sum(pc.struct_field(table["usage"], "cached_tokens")).as_py()
        cached = cached if some is None else (cached or 0) + some
        finished = table.filter(pc.equal(table["status"], "finished"))["timings"]
        timings.append(np.stack([pc.struct_field(finished, stage) for stage in _STAGES]).astype(np.float32))

    ended = overall.finished + overall.failed
    passes = [
        row
        for name, held in sorted(values.items(), key=lambda item: (item[0] != "reward", item[0]))
        if _can_pass(name, held)
        for row in compute_pass_rates(name, held)
    ]
    price = read_price(run_dir)
    cost = None
    if price is not None:
        passed = int(values["reward"].counts()[1].sum()) if len(values["reward"]) else 0
        cost = compute_cost(price, **tokens, cached_tokens=cached, episodes=ended, passed=passed)
    return Summary(
        run_id=manifest.run_id,
        environment=environment,
        planned=planned,
        finished=overall.finished,
        failed=overall.failed,
        cancelled=manifest.cancelled,
        failures=dict(sorted(failures.items())),
        failure_groups=causes.groups(),
        reward=overall.reward.value,
        metrics={
            name: mean
            for name, metric in sorted(overall.metrics.items())
            if (mean := metric.value) is not None
        },
        means={name: mean for name, held in sorted(values.items()) if (mean := held.estimate())},
        passes=passes,
        rows=[
            SummaryRow(
                suite=suite,
                mode=mode,
                episodes=tally.finished + tally.failed,
                failed=tally.failed,
                reward=tally.reward.value,
                utility=tally.metric("utility"),
                attack_success=tally.metric("attack_success"),
            )
            for (suite, mode), tally in sorted(by_row.items(), key=lambda item: _row_order(*item[0]))
        ],
        scores=scores.rows(),
        seconds=_stage_statistics(timings),
        prompt_tokens=tokens["prompt_tokens"],
        completion_tokens=tokens["completion_tokens"],
        cached_tokens=cached,
        cost=cost,
        policy=compute_policy_shares(run_dir / "metrics.jsonl"),
        wall_seconds=wall_seconds,
        episodes_per_second=ended / wall_seconds if wall_seconds else None,
    )


def _can_pass(name: str, values: TaskValues) -> bool:
    """Whether a value of 1 means that a sample passed: of a metric only where it is 0 or 1."""
    return name == "reward" or values.is_share


def write_summary(run_dir: Path, summary: Summary) -> Path:
    """Write the summary into the run folder as `summary.json`, and say where.

    Raises:
        RunFolderError: It cannot be written.
    """
    path = run_dir / "summary.json"
    with naming_place(run_dir), replacing(path) as temporary:
        temporary.write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path


def _read_row(episode: dict[str, Any]) -> tuple[str, Mode | None]:
    mode = episode_mode(
        **{name: episode[name] for name in ("suite", "user_task", "injection_task", "attack")}
    )
    return episode["environment"] if mode is None else episode["suite"], mode


def _row_order(suite: str, mode: Mode | None) -> tuple[str, int]:
    return suite, (None, "benign", "attack", "injection").index(mode)


def _stage_statistics(timings: list[_Floats]) -> dict[str, Seconds]:
    """Statistics of arrays that have one row per stage and one column per episode."""
    table = np.concatenate(timings, axis=1) if timings else np.empty((len(_STAGES), 0), np.float32)
    if not table.size:
        return {}
    means = table.mean(axis=1, dtype=np.float64)
    medians, highs = np.percentile(table, [50, 95], axis=1)
    return {
        stage: Seconds(mean=float(mean), p50=float(median), p95=float(high))
        for stage, mean, median, high in zip(_STAGES, means, medians, highs, strict=True)
    }
