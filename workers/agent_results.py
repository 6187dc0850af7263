"""What the agents of an episode came to, where several have played it."""

import json

from workers.records import EpisodeRecord, Record


class AgentResult(Record):
    """What one agent came to, one time that it played."""

    agent: str
    """Its name."""
    policy: str | None
    """The policy that played it, of `policies`. None: the run's own."""
    trainable: bool
    """Whether it is to be learnt from."""
    branches: list[int]
    """Its conversations, as `branch` of the steps has them."""
    reward: float
    metrics: dict[str, float | None]
    stop_reason: str | None


def write_agents(agents: list[AgentResult] | None) -> str | None:
    """Agents' results as a record has them; None where there are none."""
    return None if agents is None else json.dumps([agent.model_dump() for agent in agents])


def read_agents(episode: EpisodeRecord) -> list[AgentResult]:
    """The agents' results that a record has; empty where one agent has played."""
    return [AgentResult.model_validate(agent) for agent in json.loads(episode.agents or "[]")]
