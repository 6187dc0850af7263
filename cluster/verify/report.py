"""What `kumite verify` says of a run: a report per rule."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from workers.records import Record

Rule = Literal[
    "lengths",
    "prompts",
    "append_only",
    "sequences",
    "versions",
    "logprobs",
    "actions",
    "finish",
    "steps",
    "tools",
    "states",
    "rewards",
    "usage",
    "times",
    "episodes",
    "digests",
    "files",
    "counts",
]
_EXAMPLES = 5

RULES: dict[Rule, str] = {
    "lengths": "in each step, ids, log-probabilities and usage agree in length, no log-probability is above "
    "0, and ids are there if the policy reports them",
    "prompts": "a prompt's ids are the messages rendered by the model's template, or they continue the turn "
    "before",
    "append_only": "with `tokens: exact`, the prompt of a turn begins with the exact ids of the turn before",
    "sequences": "the sequences for training, and the files written from them, hold every sampled id once, "
    "in order, with its log-probability; the mask is 1 exactly there",
    "versions": "versions never decrease in an episode; its first and last version are those of its steps; "
    "all are versions of the run",
    "logprobs": "log-probabilities agree, within a tolerance, when the same version scores them again",
    "actions": "a step's action is what the run's tokenizer and parsers read from its sampled ids",
    "finish": "a turn's finish reason fits its sampled ids and its action",
    "steps": "steps are numbered from 0; each prompt contains the answers to the step before; the last step "
    "ends the episode; together they are the episode's conversation",
    "tools": "every tool result in a prompt answers a call that was made before",
    "states": "the base state is there, and the patches of the environment's state apply to it one after the "
    "other",
    "rewards": "rewards are finite; failed episodes have none; AgentDojo's rewards follow from its metrics",
    "usage": "an episode's usage is the sum of its steps",
    "times": "times are not negative, add up, and lie within the run",
    "episodes": "each episode is there once; its id, group and names fit its task and the run",
    "digests": "an episode is unchanged since its worker wrote it",
    "files": "the files that the manifest names are there and unchanged, and there are no others",
    "counts": "the manifest and the summary count as many episodes as there are, and the summary fits them",
}


class NotChecked(Exception):
    """A rule cannot be applied to something; says why. That is no violation."""


class RuleReport(Record):
    """What came of one rule."""

    rule: Rule
    """The rule."""
    checked: int = 0
    """Steps (or episodes, or files) that it was applied to."""
    violations: int = 0
    """Those that break it."""
    not_checked: dict[str, int] = Field(default_factory=dict[str, int])
    """Those that it could not be applied to, by reason."""
    examples: list[str] = Field(default_factory=list[str])
    """The first few violations."""

    def add(self, where: str, complaint: str | None) -> None:
        """Counts one that the rule was applied to; `complaint` says how it breaks the rule, if it does."""
        self.checked += 1
        if complaint is not None:
            self.violations += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(f"{where}: {complaint}")

    def skip(self, reason: str) -> None:
        """Counts one that the rule could not be applied to."""
        self.not_checked[reason] = self.not_checked.get(reason, 0) + 1

    def apply(self, where: str, check: Callable[[], str | None]) -> None:
        """Counts what a check says; one that breaks down is a violation, which says with what.

        Args:
            where: What is checked.
            check: Gives what is wrong, or None; raises `NotChecked` where that cannot be told.
        """
        try:
            complaint = check()
        except NotChecked as reason:
            self.skip(str(reason))
            return
        except Exception as error:  # noqa: BLE001 - data that breaks a check down is not what it should be
            complaint = f"the check breaks down on it with {type(error).__name__}: {str(error)[:300]}"
        self.add(where, complaint)


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
    mean_difference: float | None = None
    """Mean difference of a log-probability scored again, in nats. Null where none was."""

    @property
    def violations(self) -> int:
        """Violations of all rules together."""
        return sum(report.violations for report in self.rules)
