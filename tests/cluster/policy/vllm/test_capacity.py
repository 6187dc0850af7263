"""Whether a machine has what deployments take together."""

import pytest

from cluster.config import VllmPolicy
from cluster.errors import ConfigError
from cluster.policy.vllm import capacity


def test_deployments_that_take_more_cpus_together_than_ray_has_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def choose_cpu(config: VllmPolicy, local: bool) -> str:
        return "cpu"

    def resources() -> dict[str, float]:
        return {"CPU": 5.0}

    monkeypatch.setattr(capacity, "choose_accelerator", choose_cpu)
    monkeypatch.setattr(capacity._ray, "cluster_resources", resources)
    policy = VllmPolicy(kind="vllm")
    capacity.check_together({"policy": policy})
    said = (
        r"policies\.judge: the deployments take 6 logical CPUs together \(policy 3, policies\.judge 3\), and "
        r"Ray has 5: raise ray\.num_cpus \(they are not cores\), or have it be of kind `adapter`"
    )
    with pytest.raises(ConfigError, match=said):
        capacity.check_together({"policy": policy, "policies.judge": policy})
