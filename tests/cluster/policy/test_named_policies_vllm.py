"""An adapter for another agent on a real deployment: it is served beside the policy's versions."""

import asyncio
import random
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.errors import PolicyUnavailable, UpdateRefused
from cluster.policy.api_requests import request_json
from cluster.policy.models.models import Model
from cluster.policy.named import NamedPolicies
from cluster.policy.vllm import kept_record
from cluster.policy.vllm.client import VllmPolicyClient
from cluster.policy.weights.versions import VersionFolder
from tests.helpers.v1_parity_tasksets import write_taskset
from workers.environments.opening import open_environment
from workers.episode import EpisodePlayer
from workers.records import EpisodeRecord, EpisodeSpec
from workers.settings import (
    EnvironmentSettings,
    PolicyEndpoint,
    SamplingSettings,
    SandboxSettings,
    WorkerSettings,
)

pytestmark = [pytest.mark.vllm]


def config_of(adapter: Path) -> RunConfig:
    sampling = {"max_tokens": 8, "temperature": 0.0}
    red = {"kind": "adapter", "path": str(adapter), "sampling": sampling}
    policy = {"kind": "vllm", "adapters": {}}
    return RunConfig.model_validate({"environment": {"id": "e"}, "policy": policy, "policies": {"red": red}})


@pytest.fixture
def client(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path, monkeypatch: pytest.MonkeyPatch
) -> VllmPolicyClient:
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))
    kept = kept_record.read_kept_policy()
    assert kept is not None
    versions = VersionFolder(kept.versions, vllm_model, kept.max_rank, kept.kept_versions, [kept.model])
    model, policy = Model(kept.model, str(vllm_model), local=True), config_of(Path("."))
    made: Any = policy.policy
    return VllmPolicyClient(made, model, kept.base_url, versions, local=True, ends=None)


def scores(url: str, model: str, ids: list[int]) -> list[float]:
    body = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
    given: Any = request_json(url, "completions", None, 120.0, body)["choices"][0]["prompt_logprobs"]
    return [float(entry[str(token)]["logprob"]) for token, entry in zip(ids[1:], given[1:], strict=True)]


def distance(some: list[float], others: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(some, others, strict=True)) / len(some)


def play_user_sim(folder: Path, policy: PolicyEndpoint, red: PolicyEndpoint) -> EpisodeRecord:
    """One conversation, in which the simulated user is played by `red`."""
    environment = EnvironmentSettings(
        id=str(write_taskset(folder, "Plain")),
        args={"id": "user-sim", "user": {"model": "red", "max_turns": 2}, "assistant": {"max_turns": 2}},
    )
    sampling = SamplingSettings(max_tokens=8)
    settings = WorkerSettings(
        run_id="r",
        environment=environment,
        sandbox=SandboxSettings(),
        policy=policy.model_copy(update={"sampling": sampling}),
        policies={"red": red},
    )
    loaded = open_environment(environment)
    spec = EpisodeSpec(episode_id="e", task_id="0", group_id="g", sample_index=0, row=loaded.rows()[0])

    async def play() -> EpisodeRecord:
        player = await EpisodePlayer.create(settings, loaded, "w", "here")
        try:
            [result] = await player.play([spec])
        finally:
            await player.shut_down()
            await loaded.tear_down()
        return EpisodeRecord.model_validate_json(result.record)

    return asyncio.run(play())


def test_an_adapter_plays_another_agent_and_is_no_version_of_the_policys(
    client: VllmPolicyClient, vllm_endpoint: PolicyEndpoint, vllm_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    from tests.helpers.peft_adapters import load_base, score_with_peft, write_peft_adapter

    folder, url = vllm_model, str(vllm_endpoint.base_url)
    base, before = load_base(folder), client.version
    adapter = write_peft_adapter(
        folder, tmp_path / "red", target_modules="all-linear", strength=0.1, loaded=base
    )
    other = write_peft_adapter(folder, tmp_path / "blue", strength=0.2, loaded=base)
    chance = random.Random("named")
    ids = [chance.randrange(100, 30000) for _ in range(32)]
    meant, alone = score_with_peft(folder, adapter, ids, base), score_with_peft(folder, None, ids, base)
    session: Any = None
    named = NamedPolicies(config_of(adapter), session, client, lambda stage: None)
    red = named.endpoints["red"]
    assert named.outcomes == [f"red: the adapter {adapter}"]
    assert (red.token_ids, red.version, red.sampling.max_tokens) == (False, None, 8)
    assert client.version == before
    effect, off = distance(alone, meant), distance(scores(url, red.model, ids), meant)
    print(f"differs by {off:.3f} nats a token; changes by {effect:.3f}")
    assert effect > 0.3, "there is something to be served"
    assert off < max(0.1, 0.15 * effect)

    client.update(other, client.next_version)
    newest = f"{vllm_endpoint.model}:v{client.version}"
    assert distance(scores(url, red.model, ids), meant) < max(0.1, 0.15 * effect), "it is still its own"
    assert distance(scores(url, newest, ids), meant) > 0.15 * effect
    said: Any = request_json(
        url,
        "chat/completions",
        None,
        120.0,
        {"model": red.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    )
    assert said["model"] == red.model

    record = play_user_sim(tmp_path, client.endpoint(), red)
    assert record.error is None, record.error
    assert {(step.agent, step.policy) for step in record.steps} == {("user", "red"), ("assistant", None)}
    versions = {step.agent: step.policy_version for step in record.steps}
    assert versions == {"user": None, "assistant": client.version}

    with pytest.raises(UpdateRefused, match=r"policies\.red is an adapter of the full weights"):
        client.update(folder, client.next_version)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scores(url, f"{vllm_endpoint.model}:nobody", ids)
    with pytest.raises(PolicyUnavailable, match=r"policies\.red: the adapter .*: there is no such folder"):
        NamedPolicies(config_of(tmp_path / "none"), session, client, lambda stage: None)
