"""The oracle: the task's own ground truth acts, on the worker; there is nothing to start."""

from cluster.policy.base import PolicyHandle
from workers.settings import PolicyEndpoint


class OraclePolicyHandle(PolicyHandle):
    outcome = "the tasks' ground truth"

    def endpoint(self) -> PolicyEndpoint:
        return PolicyEndpoint(kind="oracle", model="oracle")
