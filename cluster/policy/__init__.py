"""Policies: who acts. One file per kind, and what a vLLM policy is made of.

Each function imports the kind that it is asked for: `endpoint` imports verifiers, which takes seconds, and
what only reads a run (`kumite view`, `kumite show`) asks for none.
"""

from typing import TYPE_CHECKING

from cluster.config import EndpointPolicy, OraclePolicy, Policy, SeatPolicy, VllmPolicy
from cluster.policy.base import OnStage, PolicyClient

if TYPE_CHECKING:
    from cluster.ray_session.session import RaySession

__all__ = ["OnStage", "PolicyClient", "check_policy", "open_policy", "required_cpus"]


def check_policy(config: Policy) -> None:
    """Sees what can be seen to be wrong with a policy before anything is started.

    Raises:
        PolicyUnavailable: Something is.
    """
    if isinstance(config, EndpointPolicy):
        from cluster.policy.endpoint import check_endpoint

        check_endpoint(config)
    elif isinstance(config, VllmPolicy):
        from cluster.policy.vllm.client import check_vllm

        check_vllm(config)


def required_cpus(config: Policy | SeatPolicy) -> float:
    """Logical CPUs that a local Ray cluster must have for a policy."""
    if not isinstance(config, VllmPolicy):
        return 0.0
    from cluster.policy.vllm.capacity import required_cpus as required

    return required(config)


def open_policy(config: Policy, session: "RaySession", on_stage: OnStage) -> PolicyClient:
    """Brings a policy up, or sees that it is up.

    Args:
        config: The run's `policy` section.
        session: The Ray cluster.
        on_stage: Told what is being waited for.

    Raises:
        PolicyUnavailable: It cannot be reached, or does not come up.
        PolicyInUse: It would have to replace a kept policy that another run uses.
    """
    if isinstance(config, OraclePolicy):
        from cluster.policy.oracle import OraclePolicyClient

        return OraclePolicyClient()
    if isinstance(config, EndpointPolicy):
        from cluster.policy.endpoint import EndpointPolicyClient

        return EndpointPolicyClient(config)
    from cluster.policy.vllm.client import check_vllm, open_vllm

    check_vllm(config)
    return open_vllm(config, session, on_stage)
