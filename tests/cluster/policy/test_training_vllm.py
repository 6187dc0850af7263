"""Exact tokens and new weights on a real deployment, up to a trainer's whole loop."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.dataset.episodes import iterate_records
from cluster.dataset.sequences import sequences_of
from cluster.errors import UpdateRefused
from cluster.policy.api_requests import request_json
from cluster.policy.models import packaged_model
from cluster.policy.vllm import deployment, kept_policy, kept_record
from cluster.policy.vllm.deployment import deployment_metrics
from cluster.policy.weights.versions import VersionFolder
from cluster.verify.checks import verify
from cluster.verify.rescore import Scorer
from tests.e2e.kumite import cache_in
from tests.helpers.asking import ask, read_served_version, tokens
from tests.helpers.drivers import ROOT, driver_environment, kumite_policy
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.small_model import HIDDEN
from tests.helpers.token_runs import write_run
from tests.helpers.weight_files import perturbed, score, write_adapter
from workers.settings import PolicyEndpoint, SamplingSettings

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("model_weights")]
LONG = 1500
"""Tokens of an answer that takes longer than a checkpoint's check and copy: seconds."""


def mean_distance(some: list[float], others: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(some, others, strict=True)) / len(some)


async def test_exact_turns_with_tools_are_one_sequence_and_score_as_they_were_sampled(
    vllm_endpoint: PolicyEndpoint, vllm_model: Path, tmp_path: Path
):
    sampling = SamplingSettings(max_tokens=32)
    exact = vllm_endpoint.model_copy(update={"tokens": "exact", "sampling": sampling})
    with rollout_worker("tests.helpers.looking_environment", policy=exact, seed=1) as worker:
        episodes = [record(result) for result in played(worker, *map(spec, rows(worker)))]
    assert [len(episode.steps) for episode in episodes] == [4] * 8
    called = [step for episode in episodes for step in episode.steps[:-1] if step.action.tool_calls]
    assert called, "the model calls the tool, in every other turn or so"
    assert all(step.observations[0].role == "tool" for step in called)
    assert [len(sequences_of(episode)) for episode in episodes] == [1] * 8
    policy = {"model": str(vllm_model), "tokens": "exact", "sampling": sampling.model_dump()}
    run = await write_run(tmp_path, episodes, **policy)
    assert exact.base_url is not None
    found = verify(run, rescore=Scorer(exact.base_url, exact.model, sampling))
    expected = {
        "lengths": (32, 0),
        "prompts": (32, 0),
        "append_only": (24, 0),
        "sequences": (8, 0),
        "versions": (8, 0),
        "logprobs": (32, 0),
        "actions": (32, 0),
        "finish": (32, 0),
        "digests": (8, 0),
    }
    by_rule = {report.rule: (report.checked, report.violations) for report in found.rules}
    assert {rule: by_rule[rule] for rule in expected} == expected


def test_an_adapter_of_another_model_is_refused_and_the_policy_serves_on(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))
    before = read_served_version()
    with pytest.raises(UpdateRefused, match="for another base model"):
        kept_policy.update_kept_policy(write_adapter(tmp_path / "adapter"), before + 1)
    assert read_served_version() == before


async def test_a_full_checkpoint_is_reloaded_and_answers_name_the_weights_that_gave_them(
    vllm_endpoint: PolicyEndpoint,
    vllm_cache: Path,
    vllm_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))
    original, url = vllm_model, str(vllm_endpoint.base_url)
    other = perturbed(original, tmp_path / "other", share=0.7)
    version = read_served_version()

    async def speak(length: int) -> tuple[str, list[int], list[float], list[int]]:
        whole = {"max_tokens": length, "extra_body": {"ignore_eos": True}}
        answer = await ask(vllm_endpoint, "Tell me of the sea and its ships. " * 20, **whole)
        given = tokens(answer)
        return answer.model, given.completion_ids, given.completion_logprobs, given.prompt_ids

    first = await speak(24)
    assert (await speak(24))[1] == first[1]
    assert deployment_metrics(url).prefix_hits > 0, "its prompt was cached"
    in_flight = asyncio.create_task(speak(LONG))
    while not await asyncio.to_thread(lambda: deployment_metrics(url).running):
        await asyncio.sleep(0.1)
    running_at_load: list[bool] = []

    def told(*request: Any) -> Any:
        running_at_load.append(not in_flight.done())
        return request_json(*request)

    with monkeypatch.context() as noting:
        noting.setattr(deployment, "request_json", told)
        await asyncio.to_thread(kept_policy.update_kept_policy, other, version + 1)
    assert running_at_load == [True], "it was checked and copied while the request ran"
    assert read_served_version() == version + 1
    model, ids, *_ = await in_flight
    assert (model, len(ids)) == (f"{vllm_endpoint.model}:v{version}", LONG), "it ended on its own weights"

    hits = deployment_metrics(url).prefix_hits
    model, ids, logprobs, prompt = await speak(24)
    assert model == f"{vllm_endpoint.model}:v{version + 1}"
    assert deployment_metrics(url).prefix_hits == hits, "what the old weights computed is not used"
    off = [mean_distance(logprobs, score(m, prompt + ids, len(ids))) for m in (other, original)]
    assert off[0] < 0.15 < off[1], "the answer is the other checkpoint's"
    for how in ("per_turn", "exact"):
        stale = vllm_endpoint.model_copy(update={"tokens": how, "sampling": SamplingSettings(max_tokens=4)})
        with rollout_worker("tests.helpers.dialogue_environment", policy=stale) as worker:
            (result,) = played(worker, spec(rows(worker)[0]))
        assert [step.policy_version for step in record(result).steps] == [version + 1] * 3

    back = asyncio.to_thread(kumite_policy, vllm_cache, "update", original, "--version", version + 2)
    assert f"the policy is at version {version + 2}" in await back
    assert (await speak(24))[1:] == first[1:], "the first weights are back, to the last bit"


@pytest.mark.parametrize("route", ["chat/completions", "inference/v1/generate"])
def test_of_a_version_that_has_gone_or_is_still_to_come_the_deployment_says_so(
    route: str,
    vllm_endpoint: PolicyEndpoint,
    vllm_cache: Path,
    vllm_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))
    model, url = vllm_model, str(vllm_endpoint.base_url)
    kept = kept_record.read_kept_policy()
    assert kept is not None
    versions = VersionFolder(kept.versions, model, kept.max_rank, kept=1)
    version = versions.version
    adapter = write_adapter(tmp_path / "adapter", outputs=HIDDEN, inputs=HIDDEN)
    config = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))

    def status(asked: int) -> int:
        body: dict[str, Any] = {"model": f"{vllm_endpoint.model}:v{asked}"}
        if route == "chat/completions":
            body |= {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
        else:
            body |= {"token_ids": [1, 2], "sampling_params": {"max_tokens": 1}}
        try:
            root = url if route == "chat/completions" else url.removesuffix("/v1")
            request_json(root, route, None, 60.0, body)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    for new in (version + 1, version + 2):
        deployment.update_deployment(versions, url, str(adapter), new)
        assert status(new) == 200
    assert (status(version + 1), status(version + 2)) == (410, 200)
    assert versions.adapter(version + 1) is None

    coming = versions.path / f"v{version + 3}"
    coming.mkdir()
    shutil.copyfile(model / "config.json", coming / "config.json")
    try:
        assert status(version + 3) == 503, "a replica that is to be given it later"
    finally:
        shutil.rmtree(coming)
    assert status(version + 3) == 404


def test_a_trainers_loop_plays_each_version_that_it_has_made(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, vllm_model: Path, tmp_path: Path
):
    """The model has nothing to learn; that the packaged one learns takes minutes, and `--exhaustive`."""
    curve = train_lora(vllm_cache, tmp_path, model=str(vllm_model), adapters={})
    assert len(curve) == 3
    found = verify(tmp_path / "run", tokenizer=str(vllm_model))
    assert found.violations == 0
    assert found.steps == 3 * 4 * 8
    versions = Counter(s.policy_version for e in iterate_records(tmp_path / "run") for s in e.steps)
    last = max(version for version in versions if version is not None)
    assert versions == {last - 2: 32, last - 1: 32, last: 32}


@pytest.mark.exhaustive
def test_a_trainers_loop_raises_the_mean_reward(tmp_path: Path):
    curve = train_lora(cache_in(tmp_path / "cache"), tmp_path)
    assert len(curve) == 3
    # From 0.32 to 0.75 in each of many runs; the mean of 32 rewards is uncertain by 0.05.
    assert curve[2] > curve[0] + 0.2, curve
    found = verify(tmp_path / "run", tokenizer=str(packaged_model.folder()))
    assert found.violations == 0
    assert found.steps == 3 * 4 * 8


def train_lora(cache: Path, folder: Path, **policy: Any) -> list[float]:
    """Has the example take two updates of four tasks each; returns the mean rewards that it tells."""
    pytest.importorskip("peft")
    config = yaml.safe_load((ROOT / "examples" / "train_lora.yaml").read_text())
    config["environment"]["id"] = str(ROOT / "examples" / "short_answers.py")
    config["policy"] |= policy
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", folder / "train.yaml", "--iterations", "2", "--tasks", "4"]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "train_lora.py", *options, "--out", folder / "run"],
        env=driver_environment(cache, OMP_WAIT_POLICY="PASSIVE", PATH=os.environ["PATH"]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [float(reward) for reward in re.findall(r"mean reward ([\d.]+)", done.stdout)]
