"""`kumite verify`: whether a run's dataset is what it claims to be, recomputed from the run's files."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cluster.config import EndpointPolicy
from cluster.config.file import load_config
from cluster.dataset.manifest import load_manifest
from cluster.dataset.run_record import NAME, RunRecord, load_run_record
from cluster.errors import RunError
from cluster.verify import episode_rules, run_rules, sequence_rules
from cluster.verify.actions import Actions
from cluster.verify.branch_rules import previous_in_branch
from cluster.verify.prompts import Prompts
from cluster.verify.report import RULES, NotChecked, Rule, RuleReport, Verification
from cluster.verify.rescore import Scorer
from cluster.verify.run_context import RunContext
from cluster.verify.token_rules import (
    check_lengths,
    check_usage,
    check_zeros,
    is_sharpened,
    messages_continue,
    prompt_continues,
)
from workers.records import EpisodeRecord, StepRecord
from workers.settings import SamplingSettings

__all__ = ["RULES", "Rescore", "Rule", "RuleReport", "Verification", "verify"]

Rescore: TypeAlias = Callable[[StepRecord], list[float] | str]
"""Log-probabilities of a step's sampled ids, or why they cannot be had. A `Scorer` is told how each episode
was sampled."""
_NO_IDS_REASON = "the policy gave no token ids"


def verify(
    run_dir: Path, *, tokenizer: str | None = None, rescore: Rescore | None = None, tolerance: float = 0.1
) -> Verification:
    """Recomputes what a run's dataset says.

    Args:
        run_dir: The run's folder.
        tokenizer: The model's folder or hub id. None: that of the run's config.
        rescore: Scores a step again. None: the rule `logprobs` is not applied.
        tolerance: Mean difference of a step's log-probabilities that is allowed, in nats. The same weights
            give slightly different ones in another batch, in bfloat16 above all.

    Raises:
        RunFolderError: The folder holds no run, or one of another format.
        ConfigError: The run's config cannot be read.
        RunError: The tokenizer that was named cannot be had.
        PolicyUnavailable: The policy to score with went away.
    """
    manifest = load_manifest(run_dir)
    reports: dict[Rule, RuleReport] = {rule: RuleReport(rule=rule) for rule in RULES}
    record = _run_record(run_dir, reports["files"])
    run = RunContext(run_dir, load_config(run_dir / "config.yaml"), manifest, record, tokenizer)
    return _Check(run, reports, rescore, tolerance).result()


class _Check:
    """One check of a run."""

    def __init__(
        self, run: RunContext, reports: dict[Rule, RuleReport], rescore: Rescore | None, tolerance: float
    ) -> None:
        self._run = run
        self._reports = reports
        self._rescore = rescore
        self._tolerance = tolerance
        self._prompts = Prompts(run)
        self._actions = Actions(run, self._prompts)
        self._states: dict[str, str] = {}
        self._differences: list[tuple[float, int, float]] = []
        """Of each step scored again: the sum of its differences, their number, and the largest."""
        self._without_ids: list[tuple[str, str | None]] = []
        self._with_ids = 0
        self._logprobs = [0, 0]
        """Log-probabilities read, and those of them that are not 0."""

    def result(self) -> Verification:
        run, reports = self._run, self._reports
        found = Verification(run_id=run.manifest.run_id, rules=list(reports.values()))
        is_agentdojo = run.config.environment.id == "agentdojo"
        self._states = run_rules.base_states(run.folder, reports["files"], named_by_content=is_agentdojo)
        counts = run_rules.Counts(run)
        for episode in run_rules.read_episodes(run.folder, run.manifest, reports["files"]):
            found.episodes += 1
            found.steps += len(episode.steps)
            self._check_episode(episode, counts)
            for index in range(len(episode.steps)):
                self._check_step(episode, index)
        reports["counts"].apply("manifest.json", counts.planned)
        reports["counts"].apply("summary.json", counts.summary)
        sequence_rules.check_sequence_files(run.folder, reports["sequences"])
        self._check_all_steps()
        if self._differences:
            sums, numbers, largest = zip(*self._differences, strict=True)
            found.largest_difference, found.mean_difference = max(largest), sum(sums) / sum(numbers)
        return found

    def _check_episode(self, episode: EpisodeRecord, counts: run_rules.Counts) -> None:
        run, reports, where = self._run, self._reports, episode.episode_id

        def identity() -> str | None:
            doubled = counts.add(episode)
            return episode_rules.identity(run, episode) or doubled

        checks: dict[Rule, Callable[[], str | None]] = {
            "versions": lambda: episode_rules.versions(run, episode),
            "sequences": lambda: sequence_rules.of_steps(episode),
            "steps": lambda: episode_rules.steps(episode),
            "tools": lambda: episode_rules.tool_results(episode),
            "states": lambda: episode_rules.states(episode, self._states),
            "rewards": lambda: episode_rules.rewards(run, episode),
            "usage": lambda: check_usage(episode),
            "times": lambda: episode_rules.times(run, episode),
            "episodes": identity,
            "digests": lambda: episode_rules.check_digest(episode),
        }
        for rule, check in checks.items():
            reports[rule].apply(where, check)

    def _check_step(self, episode: EpisodeRecord, index: int) -> None:
        run, reports, step = self._run, self._reports, episode.steps[index]
        where = f"{episode.episode_id} step {step.step_index}"
        extra = run.extra_body(episode, step)
        gives_ids = run.gives_ids and extra.get("include_reasoning") is not False
        reports["lengths"].apply(
            where,
            lambda: (
                check_lengths(step, gives_ids=gives_ids)
                or check_zeros(step, run.sampling(episode, step), extra)
            ),
        )
        reports["finish"].apply(where, lambda: self._finish(episode, step))
        if step.prompt_token_ids is None or step.completion_token_ids is None:
            self._without_ids.append((where, step.no_logprobs))
            of_ids: tuple[Rule, ...] = ("prompts", "append_only", "logprobs", "actions")
            for rule in of_ids:
                reports[rule].skip(_NO_IDS_REASON)
            return
        self._with_ids += 1
        self._logprobs[0] += len(step.completion_logprobs or [])
        self._logprobs[1] += sum(map(bool, step.completion_logprobs or []))
        checks: dict[Rule, Callable[[], str | None]] = {
            "prompts": lambda: self._prompts.check(episode, index),
            "actions": lambda: self._actions.check(episode, step),
        }
        for rule, check in checks.items():
            self._apply_unless_refused(reports[rule], where, check)
        before = previous_in_branch(episode.steps, index)
        if not run.is_exact:
            reports["append_only"].skip("policy.tokens was not `exact`")
        elif before is not None and messages_continue(before, step):
            reports["append_only"].apply(
                where, lambda: None if prompt_continues(before, step) else "it has not"
            )
        self._score_again(where, episode, step)

    @staticmethod
    def _apply_unless_refused(report: RuleReport, where: str, check: Callable[[], str | None]) -> None:
        """Applies a check; a tokenizer that the user named and that cannot be had ends it all."""
        refused: list[RunError] = []

        def checked() -> str | None:
            try:
                return check()
            except RunError as error:
                refused.append(error)
                return None

        report.apply(where, checked)
        if refused:
            raise refused[0]

    def _finish(self, episode: EpisodeRecord, step: StepRecord) -> str | None:
        ends: set[int] | None = None
        if step.completion_token_ids is not None:
            try:
                ends = self._actions.ends(episode)
            except NotChecked:
                ends = None
        return episode_rules.finish(self._run, episode, step, ends)

    def _score_again(self, where: str, episode: EpisodeRecord, step: StepRecord) -> None:
        report, recorded = self._reports["logprobs"], step.completion_logprobs
        if self._rescore is None or not recorded:
            report.skip(
                "no policy to score with: give --policy" if self._rescore is None else "nothing was sampled"
            )
            return
        rescore = self._rescore
        if isinstance(rescore, Scorer):
            extra = {"extra_body": self._run.extra_body(episode, step)}
            rescore = rescore.under(self._run.sampling(episode, step).model_copy(update=extra))
        elif episode.sampling is not None:
            report.skip("a trainer's loop had it sampled otherwise than the config says")
            return
        scored = rescore(step)
        if isinstance(scored, str):
            report.skip(scored)
            return

        def compared() -> str | None:
            apart = [abs(a - b) for a, b in zip(recorded, scored, strict=True)]
            self._differences.append((sum(apart), len(apart), max(apart)))
            mean = sum(apart) / len(apart)
            return None if mean <= self._tolerance else f"mean difference {mean:.3f} nats"

        report.apply(where, compared)

    def _check_all_steps(self) -> None:
        """What shows in all steps of the run together only."""
        report, policy = self._reports["lengths"], self._run.policy
        if isinstance(policy, EndpointPolicy) and policy.token_ids and self._with_ids:
            for where, reason in self._without_ids:
                because = f": {reason}" if reason else ""
                report.add(where, f"it has no ids, and other steps of the run have them{because}")
        read, others = self._logprobs
        if read > 1 and not others and not report.violations and not self._is_narrowed:
            report.add("all steps", f"all {read} log-probabilities of the run are 0")

    @property
    def _is_narrowed(self) -> bool:
        sampling = getattr(self._run.policy, "sampling", SamplingSettings())
        return (
            sampling.top_p not in (None, 1.0)
            or sampling.tool_choice == "required"
            or is_sharpened(sampling)
            or bool(sampling.extra_body)
        )


def _run_record(run_dir: Path, files: RuleReport) -> RunRecord | None:
    read: list[RunRecord | None] = []

    def check() -> str | None:
        record = load_run_record(run_dir)
        if record is None:
            raise NotChecked(f"the run was written before there was a {NAME}")
        read.append(record)
        return None

    files.apply(NAME, check)
    return read[0] if read else None
