"""Agents that nobody has changed, by a small model on vLLM: it solves nothing, and every token is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.file import load_config
from cluster.dataset.episodes import iterate_records
from cluster.verify.checks import verify
from cluster.verify.rescore import Scorer
from sandbox_images.build import build_image
from tests.helpers.asking import read_served_version
from tests.helpers.verified_runs import play_run
from workers.settings import PolicyEndpoint, SamplingSettings, SandboxSettings

pytestmark = [pytest.mark.vllm, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(1500)]

TASKS = ["find-effective-port", "fix-pagination", "write-justify"]
OWN = {
    "command": ["python", "{home}/agent.py", "{instruction_file}", "{answer_file}"],
    "files": {"agent.py": str(Path("examples/my_agent.py").absolute())},
}
SAMPLING: dict[str, Any] = {"max_tokens": 48}


@pytest.fixture(autouse=True)
def finds_the_kept_policy(vllm_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUMITE_CACHE", str(vllm_cache))


@pytest.mark.parametrize(
    ("image", "agent", "dialect"),
    [
        ("agent-command", OWN, "messages"),
        ("agent-mini-swe-agent", {"id": "mini-swe-agent"}, "chat"),
    ],
    ids=["anthropic", "mini-swe-agent"],
)
def test_every_call_of_an_agent_has_ids_and_the_log_probabilities_that_vllm_gives_again(
    vllm_endpoint: PolicyEndpoint,
    vllm_model: Path,
    tmp_path: Path,
    image: str,
    agent: dict[str, Any],
    dialect: str,
) -> None:
    agent = {**agent, "limits": {"turns": 3, "seconds": 600, "grace": 5}}
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "environment": {
                    "id": "shell",
                    "args": {"tasks": TASKS, "agent": agent},
                    "folder": str(Path.cwd()),
                },
                "policy": {"kind": "vllm", "model": str(vllm_model), "sampling": SAMPLING},
            }
        )
    )
    endpoint = vllm_endpoint.model_copy(
        update={"sampling": SamplingSettings(**SAMPLING), "version": read_served_version()}
    )
    run = tmp_path / "run"
    play_run(run, load_config(config), endpoint, SandboxSettings(image=build_image(image)))
    episodes = list(iterate_records(run))
    told = {one.task_id: (one.status, one.stop_reason, one.error, one.details) for one in episodes}
    assert sorted(told) == TASKS
    assert {one.status for one in episodes} == {"finished"}, told
    for one in episodes:
        assert one.steps
        for step in one.steps:
            assert step.dialect == dialect
            assert step.prompt_token_ids
            assert step.completion_token_ids
            assert len(step.completion_logprobs or []) == len(step.completion_token_ids)
    assert endpoint.base_url is not None
    found = verify(run, rescore=Scorer(endpoint.base_url, endpoint.model, endpoint.sampling))
    assert {rule.rule: rule.examples for rule in found.rules if rule.violations} == {}
    (scored,) = (rule for rule in found.rules if rule.rule == "logprobs")
    assert scored.checked == found.steps and not scored.not_checked, scored
    print(f"{found.steps} steps, {found.mean_difference:.4f} nats in the mean")
