"""`policies` of kind `vllm`: one more deployment for another agent, or an error where it does not fit."""

import json

import pytest

from cluster.dataset.episodes import iterate_records
from tests.e2e.kumite import write_config
from tests.helpers.v1_parity_tasksets import write_taskset

pytestmark = pytest.mark.slow


def config_of(folder, **more):
    judge = {"kind": "vllm", "max_model_len": 2048, "sampling": {"max_tokens": 8}, **more.pop("judge", {})}
    return write_config(
        folder / "config.yaml",
        environment={
            "id": str(write_taskset(folder, "Plain")),
            "args": {
                "id": "user-sim",
                "user": {"model": "judge", "max_turns": 2},
                "assistant": {"max_turns": 2},
            },
        },
        policy={"kind": "vllm", "max_model_len": 2048, "sampling": {"max_tokens": 8}},
        policies={"judge": judge},
        workers={"max": 1},
        **more,
    )


@pytest.mark.ray
def test_deployments_that_do_not_fit_together_are_refused_before_one_starts(kumite, tmp_path, out):
    run = kumite("run", config_of(tmp_path, ray={"num_cpus": 4}), "--out", out)
    assert run.wait() != 0
    said = " ".join(run.output.split())
    assert "ray.num_cpus is 4, and this run's policy and workers ask for 6.5: raise it" in said
    run = kumite("run", config_of(tmp_path, judge={"cpu_kv_cache_gb": 100_000}), "--out", out)
    assert run.wait() != 0
    said = " ".join(run.output.split())
    assert "policies.judge: one more deployment takes about 100001" in said
    assert "lower policies.judge.cpu_kv_cache_gb (100000)" in said
    assert "starting vLLM" not in said
    assert not out.exists()


@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_another_agent_is_played_by_one_more_deployment_that_ends_with_the_run(kumite, tmp_path, out, cache):
    run = kumite("run", config_of(tmp_path), "--out", out)
    assert run.process.wait(1200) == 0, run.output
    assert "judge: smollm2-135m on the cpu, started in" in run.output
    records = list(iterate_records(out))
    assert [record.error for record in records] == [None, None]
    for record in records:
        assert {(step.agent, step.policy) for step in record.steps} == {
            ("user", "judge"),
            ("assistant", None),
        }
        assert all(step.prompt_token_ids for step in record.steps if step.agent == "assistant")
    assert list((cache / "policy" / "versions").glob("*")) == []
    shown = kumite("show", out, "--json")
    assert shown.wait() == 0 and json.loads(shown.output)["finished"] == 2
