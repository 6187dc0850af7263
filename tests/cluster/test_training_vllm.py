"""Exact tokens and new weights on a real deployment, up to a trainer's whole loop."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.errors import UpdateRefused
from cluster.policy import kept_policy, packaged_model
from cluster.rescore import Scorer
from cluster.sequences import sequences_of
from cluster.verify import verify
from tests.helpers.drivers import ROOT, driver_environment
from tests.helpers.lora_files import write_adapter
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from tests.helpers.token_runs import write_run
from workers.settings import PolicyEndpoint, SamplingSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


async def test_exact_turns_are_one_sequence_and_score_as_they_were_sampled(
    vllm_endpoint: PolicyEndpoint, tmp_path: Path
):
    sampling = SamplingSettings(max_tokens=12)
    exact = vllm_endpoint.model_copy(update={"tokens": "exact", "sampling": sampling})
    with rollout_worker("tests.helpers.dialogue_environment", policy=exact) as worker:
        tasks = [spec(row) for row in rows(worker)]
        episodes = [record(result) for result in played(worker, *tasks)]
    assert [len(episode.steps) for episode in episodes] == [3, 3]
    assert [len(sequences_of(episode)) for episode in episodes] == [1, 1]
    run = await write_run(tmp_path, episodes, tokens="exact", sampling=sampling.model_dump())
    assert exact.base_url is not None
    found = verify(run, rescore=Scorer(exact.base_url, exact.model, sampling))
    assert {report.rule: (report.checked, report.violations) for report in found.rules} == {
        "lengths": (6, 0),
        "prompts": (6, 0),
        "append_only": (4, 0),
        "sequences": (2, 0),
        "versions": (2, 0),
        "logprobs": (6, 0),
    }


def test_an_adapter_of_another_model_is_refused_and_the_policy_serves_on(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))
    with pytest.raises(UpdateRefused, match="for another base model"):
        kept_policy.update_kept(write_adapter(tmp_path / "adapter"), 1)
    status = kept_policy.status()
    assert status is not None
    assert (status.state, status.version) == ("ready", 0)


def test_a_trainers_loop_raises_the_mean_reward(
    vllm_endpoint: PolicyEndpoint, vllm_cache: Path, tmp_path: Path
):
    pytest.importorskip("peft")
    config = yaml.safe_load((ROOT / "examples" / "train_lora.yaml").read_text())
    config["environment"]["id"] = str(ROOT / "examples" / "short_answers.py")
    config["policy"]["adapters"] = {}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", tmp_path / "train.yaml", "--iterations", "3", "--tasks", "4"]
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "train_lora.py", *options, "--out", tmp_path / "run"],
        env=driver_environment(vllm_cache, OMP_WAIT_POLICY="PASSIVE", PATH=os.environ["PATH"]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    curve = [float(reward) for reward in re.findall(r"mean reward ([\d.]+)", done.stdout)]
    assert len(curve) == 4
    assert max(curve[1:]) > curve[0] + 0.1, curve
    found = verify(tmp_path / "run", tokenizer=str(packaged_model.folder()))
    assert found.violations == 0
    assert found.steps == 4 * 4 * 8
