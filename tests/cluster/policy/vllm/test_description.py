"""What Ray Serve is told of a policy is what Ray Serve LLM would tell it, without an import of vLLM."""

import json
import subprocess
import sys

import pytest

from cluster.config import VllmPolicy
from cluster.policy.models.models import Model
from cluster.policy.vllm.application import serving_args

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
POLICIES = {
    "cpu": ("cpu", {}),
    "adapters": ("cpu", {"adapters": {"max_rank": 16, "live": 3}}),
    "gpu": ("gpu", {}),
    "several gpus": ("gpu", {"tensor_parallel": 4, "engine": {"pipeline_parallel_size": 2}}),
    "replicas": ("gpu", {"replicas": 2}),
    "more under load": ("gpu", {"replicas": 1, "max_replicas": 3}),
}
DESCRIBED = """
import json, sys
from unittest import mock
import ray
from cluster.policy.vllm.description import describe_application

ENVIRONMENT = {"env_vars": {"OF": "the job"}}


def told(deployment):
    config, replica = deployment._deployment_config, deployment._replica_config
    return {
        "name": deployment.name,
        "config": config.model_dump(exclude={"user_configured_option_names"}),
        "bundles": replica.placement_group_bundles,
        "strategy": replica.placement_group_strategy,
        "actor": replica.ray_actor_options,
    }


policies = json.load(sys.stdin)
ours = {}
for name, args in policies.items():
    ingress = describe_application(args, ENVIRONMENT)._bound_deployment
    [replica] = ingress.init_kwargs["llm_deployments"].values()
    ours[name] = told(ingress), told(replica._bound_deployment)
    if name == "cpu":
        assert "torch" not in sys.modules and "vllm" not in sys.modules

from ray.serve import deployment
from ray.serve.llm import LLMConfig, build_llm_deployment
from cluster.policy.vllm.ingress import PolicyIngress, RoutedIngress

for name, args in policies.items():
    context = mock.Mock(runtime_env={**ENVIRONMENT})
    with mock.patch.object(ray, "get_runtime_context", lambda: context):
        llm = LLMConfig.model_validate(args["llm_configs"][0])
        replica = build_llm_deployment(llm)._bound_deployment
        options = PolicyIngress.get_deployment_options([llm]) | args["ingress_deployment_config"]
        if "num_replicas" in options:
            options.pop("autoscaling_config", None)
        ingress = deployment(RoutedIngress, **options)
    for what, here, there in zip(("ingress", "replica"), ours[name], map(told, (ingress, replica))):
        different = {key: (here[key], there[key]) for key in here if here[key] != there[key]}
        assert not different, f"{name}, {what}: {different}"
print("the same", len(policies))
"""


def test_ray_serve_is_told_what_its_own_functions_would_tell_it() -> None:
    model = Model("org/some-model.v1", "/models/some", local=True)
    args = {
        name: serving_args(VllmPolicy.model_validate({"kind": "vllm", "model": "m", **policy}), model, kind)
        for name, (kind, policy) in POLICIES.items()
    }
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBED],
        input=json.dumps(args),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == f"the same {len(POLICIES)}"
