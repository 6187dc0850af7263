"""Advantages of what is learnt from, within the group of its task."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias, cast, get_args

from cluster.errors import ConfigError
from workers.agent_results import read_agents
from workers.records import EpisodeRecord

Advantage: TypeAlias = Literal["grpo", "dr_grpo", "rloo", "none"]
_EPSILON = 1e-6
"""Keeps GRPO's quotient finite; a group of equal rewards has advantages of 0 without it, too."""


def check_advantage(name: str) -> Advantage:
    """The variant of that name.

    Raises:
        ConfigError: There is none.
    """
    kinds = get_args(Advantage)
    if name not in kinds:
        raise ConfigError(f"--advantage {name!r}: it must be one of {', '.join(kinds)}")
    return cast(Advantage, name)


def advantages(rewards: Iterable[float], kind: Advantage) -> list[float]:
    """Advantages of a group's episodes.

    Args:
        rewards: Of the group's finished episodes.
        kind: `grpo` (Shao et al. 2024, arXiv:2402.03300): reward less the group's mean, divided by its
            standard deviation (that of the population). `dr_grpo` (Liu et al. 2025, arXiv:2503.20783): not
            divided. `rloo` (Ahmadian et al. 2024, arXiv:2402.14740): reward less the mean of the others';
            0 where there are none. `none`: the reward itself.
    """
    each = list(rewards)
    if not each or kind == "none":
        return each
    count = len(each)
    mean = sum(each) / count
    centred = [reward - mean for reward in each]
    if kind == "dr_grpo":
        return centred
    if kind == "rloo":
        return [value * count / (count - 1) if count > 1 else 0.0 for value in centred]
    deviation = sqrt(sum(value * value for value in centred) / count)
    return [value / (deviation + _EPSILON) for value in centred]


@dataclass(frozen=True)
class Played:
    """One time that an agent has played, with a reward of its own; an episode of one agent is one."""

    episode_id: str
    agent: str | None = None
    branches: tuple[int, ...] = ()


def rewards_of(episode: EpisodeRecord, reward: float) -> list[tuple[Played, float]]:
    """The rewards of what is to be learnt from in an episode."""
    agents = read_agents(episode)
    if not agents:
        return [(Played(episode.episode_id), reward)]
    return [
        (Played(episode.episode_id, result.agent, tuple(result.branches)), result.reward)
        for result in agents
        if result.trainable
    ]
