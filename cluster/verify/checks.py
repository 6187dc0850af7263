"""`kumite verify`: whether a dataset's tokens are what they claim to be, recomputed from the dataset."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from cluster.config import OraclePolicy, RunConfig, VllmPolicy
from cluster.config_file import load_config
from cluster.dataset.episodes import iterate_records
from cluster.dataset.manifest import load_manifest
from cluster.dataset.run_folder import CHAT_TEMPLATE
from cluster.dataset.sequences import sequences_of
from cluster.errors import RunError
from cluster.policy import packaged_model
from cluster.verify.token_rules import continues, goes_on, lengths, prompt_of
from workers.chat_template import ChatTemplate
from workers.errors import TemplateError
from workers.records import EpisodeRecord, Record, StepRecord

Rule = Literal["lengths", "prompts", "append_only", "sequences", "versions", "logprobs"]
_EXAMPLES = 5

RULES: dict[Rule, str] = {
    "lengths": "a step's ids, log-probabilities and usage agree in length, and log-probabilities are such",
    "prompts": "prompt ids are the messages under the model's template, or go on from the turn before",
    "append_only": "with `tokens: exact`, a turn that goes on from the last has its ids verbatim",
    "sequences": "the sequences for training hold every sampled id once, in order, and mask in those only",
    "versions": "versions never go backwards in an episode, and the episode's is its first step's",
    "logprobs": "log-probabilities scored again by the same version agree within a tolerance",
}


class RuleReport(Record):
    """What came of one rule."""

    rule: Rule
    """The rule."""
    checked: int = 0
    """Steps (or episodes) that it was applied to."""
    violations: int = 0
    """Those that break it."""
    not_checked: dict[str, int] = Field(default_factory=dict[str, int])
    """Those that it could not be applied to, by reason."""
    examples: list[str] = Field(default_factory=list[str])
    """The first few violations."""

    def add(self, where: str, complaint: str | None) -> None:
        self.checked += 1
        if complaint is not None:
            self.violations += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{where}: {complaint}")

    def skip(self, reason: str) -> None:
        self.not_checked[reason] = self.not_checked.get(reason, 0) + 1


class Verification(Record):
    """What came of all rules."""

    run_id: str
    """The run."""
    episodes: int = 0
    """Episodes read."""
    steps: int = 0
    """Their steps."""
    rules: list[RuleReport]
    """By rule."""
    largest_difference: float | None = None
    """Largest difference of a log-probability scored again, in nats. Null where none was."""

    @property
    def violations(self) -> int:
        return sum(report.violations for report in self.rules)


Rescore = Callable[[StepRecord], list[float] | str]
"""Log-probabilities of a step's sampled ids, or why they cannot be had."""


def verify(
    run_dir: Path, *, tokenizer: str | None = None, rescore: Rescore | None = None, tolerance: float = 0.1
) -> Verification:
    """Recomputes what a run's dataset says of tokens.

    Args:
        run_dir: The run's folder.
        tokenizer: The model's folder or hub id. None: that of the run's config.
        rescore: Scores a step again. None: the rule `logprobs` is not applied.
        tolerance: Mean difference of a step's log-probabilities that is allowed, in nats. The same weights
            give slightly different ones in another batch, in bfloat16 above all.

    Raises:
        RunFolderError: The folder holds no run, or a damaged one.
        RunError: The tokenizer cannot be had.
    """
    run_id = load_manifest(run_dir).run_id
    config = load_config(run_dir / "config.yaml")
    template = _template(run_dir, config, tokenizer)
    reports: dict[Rule, RuleReport] = {rule: RuleReport(rule=rule) for rule in RULES}
    result = Verification(run_id=run_id, rules=list(reports.values()))
    differences: list[float] = []
    for episode in iterate_records(run_dir):
        result.episodes += 1
        result.steps += len(episode.steps)
        _check_episode(episode, reports)
        for before, step in _pairs(episode.steps):
            where = f"{episode.episode_id} step {step.step_index}"
            reports["lengths"].add(where, lengths(step))
            if step.prompt_token_ids is None or step.completion_token_ids is None:
                for rule in ("prompts", "append_only", "logprobs"):
                    reports[rule].skip("the policy gave no token ids")
                continue
            if template is None:
                reports["prompts"].skip("the model's tokenizer is not known: give --tokenizer")
            else:
                reports["prompts"].add(where, prompt_of(episode, before, step, template))
            if isinstance(config.policy, OraclePolicy) or config.policy.tokens != "exact":
                reports["append_only"].skip("policy.tokens was not `exact`")
            elif before is not None and goes_on(before, step):
                reports["append_only"].add(where, None if continues(before, step) else "it has not")
            if rescore is not None and episode.sampling is not None:
                reports["logprobs"].skip("a trainer's loop had it sampled otherwise than the config says")
                continue
            _score_again(where, step, rescore, tolerance, reports["logprobs"], differences)
    result.largest_difference = max(differences, default=None)
    return result


def _check_episode(episode: EpisodeRecord, reports: dict[Rule, RuleReport]) -> None:
    where = episode.episode_id
    versions = [step.policy_version for step in episode.steps]
    known = [version for version in versions if version is not None]
    complaint = None
    if known != sorted(known):
        complaint = f"they are {versions}"
    elif versions and episode.policy_version != versions[0]:
        complaint = f"the episode's is {episode.policy_version}, its first step's {versions[0]}"
    reports["versions"].add(where, complaint)
    if any(lengths(step) for step in episode.steps):
        reports["sequences"].skip("a step's lengths do not agree")
        return
    if any(step.completion_token_ids is None for step in episode.steps):
        reports["sequences"].skip("the policy gave no token ids")
        return
    sampled: list[int] = []
    complaint = None
    for sequence in sequences_of(episode):
        if not len(sequence.input_ids) == len(sequence.loss_mask) == len(sequence.logprobs):
            complaint = "its columns differ in length"
        sampled += [i for i, m in zip(sequence.input_ids, sequence.loss_mask, strict=False) if m]
    if sampled != [i for step in episode.steps for i in step.completion_token_ids or []]:
        complaint = "what the mask lets through is not what was sampled"
    reports["sequences"].add(where, complaint)


def _score_again(
    where: str,
    step: StepRecord,
    rescore: Rescore | None,
    tolerance: float,
    report: RuleReport,
    differences: list[float],
) -> None:
    recorded = step.completion_logprobs
    if rescore is None or not recorded:
        report.skip("no policy to score with: give --policy" if rescore is None else "nothing was sampled")
        return
    scored = rescore(step)
    if isinstance(scored, str):
        report.skip(scored)
        return
    apart = [abs(a - b) for a, b in zip(recorded, scored, strict=True)]
    differences.append(max(apart))
    mean = sum(apart) / len(apart)
    report.add(where, None if mean <= tolerance else f"{mean:.3f} nats apart in the mean")


def _template(run_dir: Path, config: RunConfig, tokenizer: str | None) -> ChatTemplate | None:
    policy = config.policy
    template = policy.chat_template if isinstance(policy, VllmPolicy) else None
    if template is not None and (run_dir / CHAT_TEMPLATE).is_file():
        template = run_dir / CHAT_TEMPLATE  # wherever the run is read, and whatever the file says by now
    sampling = None if isinstance(policy, OraclePolicy) else policy.sampling
    options = sampling.extra_body.get("chat_template_kwargs") if sampling else None
    if tokenizer is None:
        if not isinstance(policy, VllmPolicy):
            return None
        tokenizer = policy.model
    if tokenizer == packaged_model.NAME:
        tokenizer = str(packaged_model.folder())
    try:
        return ChatTemplate(tokenizer, template, options)
    except TemplateError as error:
        raise RunError(str(error)) from error


def _pairs(steps: Sequence[StepRecord]) -> Iterator[tuple[StepRecord | None, StepRecord]]:
    return zip([None, *steps], steps, strict=False)
