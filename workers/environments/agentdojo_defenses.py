"""The former place of `workers.environments.agentdojo.defenses`, which imports of it may keep to."""

from workers.environments.agentdojo.defenses import AbortEpisode, Defense

__all__ = ["AbortEpisode", "Defense"]
