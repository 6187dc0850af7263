"""A whole run of a taskset of another verifiers, whose harness works in containers."""

import json

import pytest
from datasets import load_dataset

from cluster.dataset.episodes import iterate_records
from tests.e2e.kumite import ROOT, write_config
from tests.helpers.conversation_policy import ConversationPolicy
from tests.helpers.mock_policy import Reply
from tests.helpers.run_containers import containers
from tests.helpers.v1_containers import bash

pytestmark = [pytest.mark.docker, pytest.mark.slow]
EXAMPLE = ROOT / "examples" / "word_hunt.yaml"


@pytest.fixture
def cache(kept_ray):
    return kept_ray


def solve(body):
    """Looks for the word, writes it down, and ends."""
    replies = [
        bash("cat notes/*"),
        bash("grep -oh 'is [a-z]*\\.' notes/* | grep -v here | tr -d '.' | cut -c4- > answer.txt"),
    ]
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    return replies[turn] if turn < 2 else Reply(content="Done.")


@pytest.mark.ray
def test_the_examples_config_is_played_as_it_is_but_for_the_policy(kumite, out):
    with ConversationPolicy(solve) as policy:
        endpoint = f"policy={{kind: endpoint, base_url: {policy.base_url}, model: mock}}"
        run = kumite("run", EXAMPLE, "--out", out, "--set", endpoint, "--set", "workers.max=1")
        assert run.wait() == 0, run.output
    records = list(iterate_records(out))
    assert [(record.error, record.reward) for record in records] == [(None, 1.0)] * 2
    assert containers(out.name) == []


@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_a_model_on_vllm_plays_the_example_in_containers_without_a_network(
    kumite, out, vllm_endpoint, vllm_model, vllm_cache
):
    model = ["--set", f"policy.model={vllm_model}"]  # of the deployment that is up
    kept = [*model, "--set", "policy.adapters={}", "--set", "policy.keep_alive=true"]
    run = kumite("run", EXAMPLE, "--out", out, *kept, "--set", "limit=1", cache=vllm_cache)
    assert run.wait() == 0, run.output
    assert "kept from an earlier run" in run.output
    [record] = iterate_records(out)
    assert record.error is None, record.error
    assert record.steps
    for step in record.steps:
        assert step.prompt_token_ids
        assert len(step.completion_logprobs or []) == len(step.completion_token_ids or []) > 0
    assert containers(out.name) == []


@pytest.mark.ray
def test_the_example_is_played_by_bash_of_0_4_0_in_containers_and_leaves_none(kumite, tmp_path, out, cache):
    with ConversationPolicy(solve) as policy:
        config = write_config(
            tmp_path / "config.yaml",
            environment={
                "id": str(ROOT / "examples" / "word_hunt.py"),
                "requirements": ["verifiers==0.4.0"],
                "args": {
                    "taskset": {"tasks": 2},
                    "agent": {"harness": {"id": "bash", "edit": False}, "max_turns": 4},
                },
            },
            policy={"kind": "endpoint", "base_url": policy.base_url, "model": "mock"},
            workers={"max": 1, "episodes_per_worker": 2},
        )
        run = kumite("run", config, "--out", out)
        assert run.wait() == 0, run.output
    files = str(out / "episodes" / "*.parquet")
    episodes = load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache / "hf"))
    assert episodes["reward"] == [1.0, 1.0]
    assert {json.loads(metrics)["commands"] for metrics in episodes["metrics"]} == {2.0}
    assert containers(out.name) == []


@pytest.mark.parametrize("requirements", [[], ["verifiers==0.4.0"]], ids=["0.3.1", "0.4.0"])
def test_its_tasks_check_themselves_in_containers_that_end(kumite, requirements):
    options = ["--set", f"environment.requirements={json.dumps(requirements)}"] if requirements else []
    checked = kumite("tasks", EXAMPLE, "--validate", "--set", "limit=2", *options)
    assert checked.wait() == 0, checked.output
    assert "2 of 2 tasks pass the taskset's own check" in checked.output
    assert containers("validate") == []
