"""Whole runs, from the command line to a loaded dataset."""

import json

import pytest
from datasets import load_dataset

from tests.e2e.kumite import banking, write_config
from tests.helpers.run_containers import containers

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def cache(kept_ray):
    return kept_ray


def load(folder, table, cache):
    files = str(folder / table / "*.parquet")
    return load_dataset("parquet", data_files=files, split="train", cache_dir=str(cache / "hf"))


def test_a_verifiers_environment_by_the_book_runs_without_a_sandbox(kumite, out, cache):
    run = kumite("run", "examples/countdown.yaml", "--out", out, forked=False)
    assert run.wait() == 0, run.output
    episodes = load(out, "episodes", cache)
    assert episodes.num_rows == 32
    assert set(episodes["status"]) == {"finished"}
    assert {json.loads(metrics)["answered_target"] for metrics in episodes["metrics"]} == {1.0}
    assert set(episodes["reward"]) == {0.5}, "the oracle names the target, but computes nothing"


@pytest.mark.docker
def test_the_oracle_solves_a_suite_in_sandboxes_and_leaves_none(kumite, kumite_here, tmp_path, out, cache):
    config = write_config(
        tmp_path / "config.yaml",
        environment={"id": "agentdojo", "args": {"suites": ["banking"]}},
        policy={"kind": "oracle"},
    )
    run = kumite("run", config, "--out", out)
    assert run.wait() == 0, run.output
    episodes, steps = load(out, "episodes", cache), load(out, "steps", cache)
    assert episodes.num_rows == 16
    assert {json.loads(metrics)["utility"] for metrics in episodes["metrics"]} == {1.0}
    assert {json.loads(metrics)["attack_success"] for metrics in episodes["metrics"]} == {None}
    assert len(set(episodes["episode_id"])) == 16
    assert sum(steps["done"]) == 16
    assert containers(out.name) == []
    shown = kumite_here("show", out, "--json")
    assert shown.code == 0
    assert json.loads(shown.output)["finished"] == 16


@pytest.mark.docker
def test_token_ids_of_an_endpoint_reach_the_dataset(kumite, tmp_path, out, cache, policy):
    args = {"suites": ["banking"], "user_tasks": ["user_task_0"], "max_turns": 2}
    config = write_config(
        tmp_path / "config.yaml",
        **banking(policy.base_url, environment={"id": "agentdojo", "args": args}, samples=3),
    )
    run = kumite("run", config, "--out", out)
    assert run.wait() == 0, run.output
    steps = load(out, "steps", cache)
    assert steps.num_rows == 6
    assert all(ids == [7, 8] for ids in steps["completion_token_ids"])
    assert all(ids == [1, 2, 3] for ids in steps["prompt_token_ids"])
    assert all(len(logprobs) == 2 for logprobs in steps["completion_logprobs"])
