"""Adapters on a real deployment: what is accepted is served as PEFT means it, and what is not is refused."""

import json
import random
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UpdateRefused
from cluster.policy.api_requests import request_json
from cluster.policy.vllm import deployment, kept_record
from cluster.policy.weights import adapters
from cluster.policy.weights.probe import AdapterProbe
from cluster.policy.weights.versions import VersionFolder
from workers.settings import PolicyEndpoint

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500), pytest.mark.usefixtures("model_weights")]

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "attention": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "lora_alpha": 64},
    "one of a packed pair": {"target_modules": ["up_proj", "k_proj"], "r": 4, "lora_alpha": 3},
    "rank-stabilised": {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": True},
    "some layers": {"target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [0, 2]},
    "by expression": {"target_modules": r".*\.(1|2)\.mlp\.(up|down)_proj", "r": 16, "lora_alpha": 8},
    "output weights": {"target_modules": ["q_proj", "lm_head"], "embeddings": False},
    "ranks that scale alike": {
        "target_modules": ["q_proj", "o_proj"],
        "rank_pattern": {"o_proj": 4},
        "alpha_pattern": {"o_proj": 8},
    },
}


def served_scores(url: str, model: str, version: int, ids: list[int]) -> list[float]:
    body = {"model": f"{model}:v{version}", "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
    given: Any = request_json(url, "completions", None, 120.0, body)["choices"][0]["prompt_logprobs"]
    return [float(entry[str(token)]["logprob"]) for token, entry in zip(ids[1:], given[1:], strict=True)]


def mean_distance(some: list[float], others: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(some, others, strict=True)) / len(some)


@pytest.fixture
def versions(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path, monkeypatch: pytest.MonkeyPatch
) -> VersionFolder:
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))
    kept = kept_record.read_kept_policy()
    assert kept is not None
    return VersionFolder(kept.versions, vllm_model, kept.max_rank, kept.kept_versions)


@pytest.fixture(scope="module")
def base_model(vllm_model: Path) -> Any:
    pytest.importorskip("peft")
    from tests.helpers.peft_adapters import load_base

    return load_base(vllm_model)


@pytest.mark.parametrize("kind", KINDS)
def test_an_accepted_adapter_is_served_with_the_log_probabilities_that_peft_computes(
    kind: str,
    vllm_endpoint: PolicyEndpoint,
    versions: VersionFolder,
    base_model: Any,
    tmp_path: Path,
):
    from tests.helpers.peft_adapters import score_with_peft, write_peft_adapter

    base = versions.base_folder
    assert base is not None
    chance = random.Random(kind)
    ids = [chance.randrange(100, 30000) for _ in range(48)]
    alone = score_with_peft(base, None, ids, base_model)
    adapter, meant, effect, strength = tmp_path, alone, 0.0, 0.04
    for attempt in range(5):  # kinds differ in how much the same numbers change
        adapter = tmp_path / f"adapter-{attempt}"
        write_peft_adapter(base, adapter, **{"strength": strength, "loaded": base_model, **KINDS[kind]})
        meant = score_with_peft(base, adapter, ids, base_model)
        effect = mean_distance(alone, meant)
        if effect > 0.6:
            break
        strength *= min(8.0, 1.2 / effect)
    url, version = str(vllm_endpoint.base_url), versions.next_version
    deployment.update_deployment(versions, url, str(adapter), version)
    served = served_scores(url, vllm_endpoint.model, version, ids)
    off = mean_distance(served, meant)
    worst = max(abs(a - b) for a, b in zip(served, meant, strict=True))
    print(f"{kind}: differs by {off:.3f} nats a token, {worst:.3f} at worst; changes by {effect:.3f}")
    assert effect > 0.6, "there is something to be served"
    assert off < max(0.1, 0.15 * effect), "the deployment may compute in bfloat16, and PEFT in float32"


def test_what_is_served_otherwise_is_found_by_the_probe_and_never_in_use(
    vllm_endpoint: PolicyEndpoint,
    versions: VersionFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("peft")
    from tests.helpers.peft_adapters import write_peft_adapter

    base, before, url = versions.base_folder, versions.version, str(vllm_endpoint.base_url)
    assert base is not None
    settings = {"target_modules": "all-linear", "strength": 0.1, "alpha_pattern": {"mlp.*": 128}}
    adapter = write_peft_adapter(base, tmp_path / "adapter", **settings)
    probe, version = AdapterProbe(url, vllm_endpoint.model, "first"), versions.next_version
    with pytest.raises(UpdateRefused, match=r"has alpha_pattern, by which PEFT scales 'model.layers.0.mlp"):
        deployment.update_deployment(versions, url, str(adapter), version, probe)
    with monkeypatch.context() as blind:
        blind.setattr(adapters, "check_adapter", lambda *_: None)
        with pytest.raises(UpdateRefused, match=r"not served as PEFT means it: .* nats a token on average"):
            deployment.update_deployment(versions, url, str(adapter), version, probe)
        assert (versions.version, versions.adapter(version)) == (before, None)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served_scores(url, vllm_endpoint.model, version, [1, 2, 3])
        with pytest.raises(UpdateRefused, match=f"version {version} was given for other weights before"):
            config = json.loads((adapter / "adapter_config.json").read_text())
            (adapter / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {}}))
            deployment.update_deployment(versions, url, str(adapter), version, probe)
    deployment.update_deployment(versions, url, str(adapter), version + 1, probe)
    assert versions.version == version + 1
    assert len(served_scores(url, vllm_endpoint.model, version + 1, [1, 2, 3])) == 2
    assert deployment.deployment_versions(url).current.version == version + 1


def test_replicas_describe_their_model_where_the_driver_has_none_of_its_files(
    vllm_endpoint: PolicyEndpoint, versions: VersionFolder, vllm_model: Path, tmp_path: Path
):
    pytest.importorskip("peft")
    from tests.helpers.peft_adapters import write_tiny_llama

    blind = VersionFolder(versions.path, None, versions.max_rank, versions.kept)
    config_only = tmp_path / "cache"
    config_only.mkdir()
    (config_only / "config.json").write_bytes((vllm_model / "config.json").read_bytes())
    half = VersionFolder(versions.path, config_only, versions.max_rank, versions.kept)
    other = write_tiny_llama(tmp_path / "other")
    for few in (blind, half):
        with pytest.raises(
            UpdateRefused, match=r"is of another architecture: its hidden_size is 32, .* is 128"
        ):
            deployment.update_deployment(few, str(vllm_endpoint.base_url), str(other), few.next_version)
