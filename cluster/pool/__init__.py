"""The rollout workers of a run, and the sandbox images that they need."""
