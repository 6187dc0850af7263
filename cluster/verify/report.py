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
    "lengths": "a step's ids, log-probabilities and usage agree in length, log-probabilities are such, and "
    "ids are there where the policy gives them",
    "prompts": "prompt ids are the messages under the model's template, or go on from the turn before",
    "append_only": "with `tokens: exact`, a turn that goes on from the last has its ids verbatim",
    "sequences": "the sequences for training, and the files written of them, hold every sampled id once, in "
    "order, with its log-probability, and mask in those only",
    "versions": "versions never go backwards in an episode, its first and last are its steps', and all are "
    "the run's",
    "logprobs": "log-probabilities scored again by the same version agree within a tolerance",
    "actions": "a step's action is what its sampled ids say, read by the run's tokenizer and parsers",
    "finish": "a turn's finish reason is that of its sampled ids and of its action",
    "steps": "steps are numbered from 0, each saw what the one before was answered, the last one ends the "
    "episode, and together they are its conversation",
    "tools": "every tool result that a turn saw answers a call that was made before",
    "states": "the patches of the environment's state apply, one after the other, from a state that is there",
    "rewards": "rewards are finite, failed episodes have none, and AgentDojo's are what its metrics say",
    "usage": "an episode's usage is that of its steps together",
    "times": "times are not negative, add up, and lie within the run's",
    "episodes": "an episode is there once; its id, group and names are those of its task and of the run",
    "digests": "an episode is as its worker wrote it",
    "files": "the files that the manifest names are there, as they were written, and no others",
    "counts": "as many episodes are there as the manifest and the summary say, and the summary is theirs",
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
