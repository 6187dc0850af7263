"""The oracle: the task's own ground truth acts, on the worker; there is nothing to start."""

from cluster.policy.base import PolicyClient
from workers.settings import PolicyEndpoint


class OraclePolicyClient(PolicyClient):
    outcome = "the tasks' ground truth"

    def endpoint(self) -> PolicyEndpoint:
        return PolicyEndpoint(kind="oracle", model="oracle")
