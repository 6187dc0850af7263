"""What runs once per Ray actor: the rollout worker, its sandbox, its environment and the records it makes."""
