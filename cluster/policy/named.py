"""The policies that play other agents: each is reached, or brought up beside the run's own."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import AdapterPolicy, EndpointPolicy, RunConfig, SeatPolicy, VllmPolicy
from cluster.errors import ConfigError, PolicyUnavailable, UpdateRefused
from cluster.policy.base import OnStage, PolicyClient
from cluster.policy.endpoint import EndpointPolicyClient, check_endpoint
from cluster.policy.weights.adapters import CONFIG
from workers.settings import PolicyEndpoint

if TYPE_CHECKING:
    from cluster.ray_session.session import RaySession


def check_named_policies(policies: Mapping[str, SeatPolicy]) -> None:
    """Sees what can be seen to be wrong with the policies of other agents before anything is started.

    Args:
        policies: The run's `policies` section.

    Raises:
        ConfigError: There is no such adapter.
        PolicyUnavailable: An endpoint does not answer, or not as it should; a model or a file is not there.
    """
    for name, config in policies.items():
        if isinstance(config, AdapterPolicy):
            _check_adapter_folder(name, config.path)
            continue
        try:
            if isinstance(config, EndpointPolicy):
                check_endpoint(config)
            else:
                from cluster.policy.vllm.client import check_vllm

                check_vllm(config)
        except PolicyUnavailable as error:
            raise PolicyUnavailable(f"policies.{name}: {error}") from error


def _check_adapter_folder(name: str, path: str) -> None:
    if "://" in path or (Path(path) / CONFIG).is_file():
        return
    what = f"has no {CONFIG}" if Path(path).is_dir() else "does not exist"
    raise ConfigError(
        f"policies.{name}.path: got {path!r}, a folder that {what}; give the folder of a LoRA adapter, as "
        "PEFT writes it"
    )


class NamedPolicies(ExitStack):
    """The policies of other agents, which are up; on closing, what was started for this run ends.

    Args:
        config: The run's config.
        session: The Ray cluster.
        policy: The run's own policy, which is up.
        on_stage: Told what is being waited for.

    Raises:
        ConfigError: The deployments do not fit the machine together.
        PolicyUnavailable: One does not come up, or does not answer; an adapter is not taken.
    """

    def __init__(
        self, config: RunConfig, session: "RaySession", policy: PolicyClient, on_stage: OnStage
    ) -> None:
        super().__init__()
        self.endpoints: dict[str, PolicyEndpoint] = {}
        """Where and how workers reach them, by name."""
        self.outcomes: list[str] = []
        """For the user: what each is, and where it came from."""
        try:
            for name, other in config.policies.items():
                self._open(name, other, session, policy, on_stage)
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        name: str,
        config: SeatPolicy,
        session: "RaySession",
        policy: PolicyClient,
        on_stage: OnStage,
    ) -> None:
        key = f"policies.{name}"
        try:
            if isinstance(config, AdapterPolicy):
                endpoint = policy.serve_adapter(name, config.path)
                endpoint = endpoint.model_copy(update={"sampling": config.sampling})
                outcome = f"the adapter {config.path}"
            else:
                client = self.enter_context(_open_client(key, config, session, on_stage))
                endpoint, outcome = client.endpoint(), client.outcome
        except (PolicyUnavailable, UpdateRefused) as error:
            raise PolicyUnavailable(f"{key}: {error}") from error
        # A trainer does not learn from what they say.
        self.endpoints[name] = endpoint.model_copy(update={"token_ids": False, "tokens": "per_turn"})
        self.outcomes.append(f"{name}: {outcome}")


def _open_client(
    key: str, config: EndpointPolicy | VllmPolicy, session: "RaySession", on_stage: OnStage
) -> PolicyClient:
    if isinstance(config, EndpointPolicy):
        return EndpointPolicyClient(config.model_copy(update={"tokens": "per_turn"}))
    from cluster.policy.vllm.capacity import check_memory
    from cluster.policy.vllm.client import start_vllm

    if session.local:
        check_memory(key, config)
    return start_vllm(config, session, lambda stage: on_stage(f"{key}: {stage}"))


def check_deployments_fit(config: RunConfig) -> None:
    """Sees that all deployments of a run fit its local cluster together, before one of them is started.

    Raises:
        ConfigError: They do not.
        PolicyUnavailable: An accelerator is asked for that is not there.
    """
    named = {f"policies.{name}": policy for name, policy in config.policies.items()}
    every = {"policy": config.policy, **named}
    deployments = {key: policy for key, policy in every.items() if isinstance(policy, VllmPolicy)}
    if len(deployments) > 1:
        from cluster.policy.vllm.capacity import check_memory, check_together

        check_together(deployments)
        for key, policy in deployments.items():
            if key != "policy":
                check_memory(key, policy)
