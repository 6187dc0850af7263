"""Utility and attack success as AgentDojo and its paper report them, with how far they can be trusted."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

from cluster.observe.intervals import TaskValues, wilson_interval
from workers.records import Record

Mode = Literal["benign", "attack", "injection"]


class Rate(Record):
    """The share of episodes in which something came true."""

    value: float
    """The share."""
    low: float
    """Lower end of its 95 % interval: Wilson's, which takes samples of one task as dependent."""
    high: float
    """Upper end of it."""
    episodes: int
    """Episodes that it is a share of."""


class ScoreRow(Record):
    """The scores of one set of AgentDojo episodes."""

    suite: str | None
    """The suite. Null: all of them together."""
    mode: Mode
    """`benign`: a user task alone; its utility is the paper's benign utility. `attack`: a user task under
    attack; its attack success is the paper's targeted attack success rate. `injection`: an injection task
    alone; its utility says how often the policy can do it when asked to."""
    attack: str | None
    """The attack. Null where there is none."""
    injection_task: str | None
    """The injection task. Null: all of them together."""
    finished: int
    """Episodes that finished: those that the rates are of."""
    failed: int
    """Episodes that failed: they are in no rate."""
    utility: Rate | None
    """How often the task was done. Null where no episode finished. Under attack it is what AgentDojo's own
    runner prints as utility, whether or not the attack succeeded as well."""
    attack_success: Rate | None
    """How often the attack did what it wanted. Null where there is no attack."""
    utility_and_security: Rate | None = None
    """How often the task was done and the attack failed: the paper's utility under attack, which is to be
    without any adversarial side effect. Null where there is no attack."""


def wilson_rate(successes: int, episodes: int) -> Rate:
    """The share of successes among independent episodes, with its 95 % score interval."""
    share = successes / episodes
    low, high = wilson_interval(share, episodes)
    return Rate(value=share, low=low, high=high, episodes=episodes)


def episode_mode(
    suite: str | None, user_task: str | None, injection_task: str | None, attack: str | None
) -> Mode | None:
    """The kind of episode that AgentDojo's labels tell of; None where there are no suites."""
    if suite is None:
        return None
    if attack is not None:
        return "attack"
    return "injection" if user_task is None and injection_task is not None else "benign"


def _rate(values: TaskValues) -> Rate | None:
    """The share of episodes with 1; None where there are none, or where it is no share."""
    found = values.estimate() if values.is_share else None
    if found is None:
        return None
    return Rate(value=found.value, low=found.low, high=found.high, episodes=found.episodes)


class _ScoreCounters:
    def __init__(self) -> None:
        self.finished = 0
        self.failed = 0
        self.utility = TaskValues()
        self.attack_success = TaskValues()
        self.utility_and_security = TaskValues()


_ScoreKey = tuple[str | None, Mode, str | None, str | None]


class Scores:
    """Scores of a run in the making. It holds some 70 bytes for each episode that finished."""

    def __init__(self) -> None:
        self._sets: defaultdict[_ScoreKey, _ScoreCounters] = defaultdict(_ScoreCounters)

    def add(self, episode: Mapping[str, Any], metrics: Mapping[str, float | None], task: int) -> None:
        """Counts an episode in; one of an environment without suites has no such scores.

        Args:
            episode: Its row.
            metrics: Its metrics.
            task: The number of its task.
        """
        suite, injection_task, attack = episode["suite"], episode["injection_task"], episode["attack"]
        mode = episode_mode(suite, episode["user_task"], injection_task, attack)
        if mode is None:
            return
        keys: list[_ScoreKey] = [(None, mode, attack, None), (suite, mode, attack, None)]
        if mode != "benign" and injection_task is not None:  # else it would count twice in its suite's
            keys.append((suite, mode, attack, injection_task))
        for key in keys:
            one = self._sets[key]
            if episode["status"] == "failed":
                one.failed += 1
                continue
            one.finished += 1
            utility, attack_success = metrics.get("utility"), metrics.get("attack_success")
            one.utility.add(utility, task)
            one.attack_success.add(attack_success, task)
            if utility is not None and attack_success is not None:
                one.utility_and_security.add(utility * (1 - attack_success), task)

    def rows(self) -> list[ScoreRow]:
        """All sets: first all suites together, then each, then each injection task."""
        return [
            ScoreRow(
                suite=suite,
                mode=mode,
                attack=attack,
                injection_task=injection_task,
                finished=one.finished,
                failed=one.failed,
                utility=_rate(one.utility),
                attack_success=_rate(one.attack_success),
                utility_and_security=_rate(one.utility_and_security),
            )
            for (suite, mode, attack, injection_task), one in sorted(self._sets.items(), key=_row_order)
        ]


def _row_order(item: tuple[_ScoreKey, _ScoreCounters]) -> tuple[Any, ...]:
    (suite, mode, attack, injection_task), _ = item
    number = (injection_task or "").rpartition("_")[2]
    return (
        injection_task is not None,
        ("benign", "attack", "injection").index(mode),
        attack or "",
        suite or "",
        int(number) if number.isdecimal() else -1,
        injection_task or "",
    )
