"""Tasksets of verifiers' v1 API through the whole machine, under both releases that have it."""

import asyncio
import json
import time

import pyarrow.parquet as pq
import pytest

from cluster.config import RunConfig
from cluster.dataset.episodes import iterate_records
from cluster.errors import ConfigError
from cluster.pool.packages import lock_packages
from cluster.rollout_engine import RolloutEngine
from tests.e2e.kumite import write_config
from tests.helpers.conversation_policy import ConversationPolicy
from tests.helpers.mock_policy import Reply
from tests.helpers.v1_parity_tasksets import write_taskset
from workers.settings import EnvironmentSettings

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RELEASES = [None, ["verifiers==0.4.0"]]


@pytest.fixture
def cache(kept_ray):
    return kept_ray


def resolvable(requirements):
    """Skips a test whose packages no index here has."""
    try:
        lock_packages(EnvironmentSettings(id="e", requirements=requirements))
    except ConfigError as error:
        pytest.skip(f"no package index can be reached: {error}")
    return requirements


def count_or_end(body):
    """Counts twice, and says that it is done."""
    turn = sum(message["role"] == "assistant" for message in body["messages"])
    return Reply() if turn == 2 else Reply(content=None, tool_calls=[("count", {"by": 1})])


def converse(body):
    """A simulated user, and who is talked to."""
    if body["messages"][0]["role"] != "system":
        return Reply(content="ok")
    is_answered = any(message["content"] == "ok" for message in body["messages"])
    return Reply(content="###DONE###" if is_answered else "Say ok, please.")


@pytest.mark.parametrize("requirements", RELEASES, ids=["0.3.1", "0.4.0"])
def test_a_taskset_with_tools_is_planned_played_taken_up_and_read(
    kumite, kumite_here, tmp_path, out, requirements
):
    with ConversationPolicy(count_or_end) as policy:
        policy.lets_through = 4  # less than all that are asked for: the run is broken off meanwhile
        environment = {"id": str(write_taskset(tmp_path, "Counted"))}
        if requirements is not None:
            environment["requirements"] = resolvable(requirements)
        config = write_config(
            tmp_path / "config.yaml",
            environment=environment,
            policy={"kind": "endpoint", "base_url": policy.base_url, "model": "mock", "token_ids": True},
            workers={"max": 1},
            samples=2,
        )
        listed = kumite("tasks", config, "--json")
        assert listed.wait() == 0, listed.output
        validated = kumite("tasks", config, "--validate")
        assert validated.wait() == 0, validated.output
        assert "2 of 2 tasks pass the taskset's own check" in validated.output
        run = kumite("run", config, "--out", out)
        while len(policy.requests) < 5:
            assert run.process.poll() is None, run.output
            time.sleep(0.1)
        run.kill()
        policy.lets_through = None
        resumed = kumite("run", "--resume", out)
        assert resumed.wait() == 0, resumed.output
    records = list(iterate_records(out))
    assert len({record.episode_id for record in records}) == 4
    assert [record.error for record in records] == [None] * 4
    assert {record.reward for record in records} == {2.0}
    assert {step.agent for record in records for step in record.steps} == {"agent"}
    shown = kumite_here("show", out, "--json")
    assert shown.code == 0, shown.output
    assert json.loads(shown.output)["finished"] == 4
    verified = kumite_here("verify", out)
    assert verified.code == 0, verified.output
    written = kumite_here("sequences", out)
    assert written.code == 0, written.output
    rows = pq.read_table(out / "sequences" / "grpo.parquet").to_pylist()
    assert {row["agent"] for row in rows} == {"agent"}
    assert {row["episode_id"] for row in rows} == {record.episode_id for record in records}


@pytest.mark.parametrize("requirements", RELEASES, ids=["0.3.1", "0.4.0"])
async def test_a_trainers_loop_plays_several_agents_and_learns_from_one(
    tmp_path, cache, monkeypatch, requirements
):
    monkeypatch.setenv("KUMITE_CACHE", str(cache))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ConversationPolicy(converse) as policy, ConversationPolicy(converse) as customer:
        given = {
            "environment": {
                "id": str(write_taskset(tmp_path, "Plain")),
                "args": {"id": "user-sim", "user": {"model": "customer"}},
            },
            "policy": {"kind": "endpoint", "base_url": policy.base_url, "model": "mock", "token_ids": True},
            "policies": {"customer": {"kind": "endpoint", "base_url": customer.base_url, "model": "mock"}},
            "workers": {"max": 1},
            "samples": 2,
        }
        if requirements is not None:
            given["environment"]["requirements"] = await asyncio.to_thread(resolvable, requirements)
        config = RunConfig.model_validate(given)
        async with RolloutEngine(config, tmp_path / "run") as engine:
            groups = [group async for group in engine.rollouts(2)]
    assert len(groups) == 2
    for group in groups:
        sequences = group.sequences("grpo")
        assert [(sequence.agent, sequence.reward) for sequence in sequences] == [("assistant", 1.0)] * 2
    assert {body["model"] for body in policy.requests} == {"mock"}
    assert len(customer.requests) == 8


PINNED = """
import jsonpatch
import verifiers as vf
from datasets import Dataset


def load_environment():
    def reward(completion):
        return float(jsonpatch.__version__ == "1.32")

    rows = Dataset.from_list([{"question": "?", "answer": "!"}])
    return vf.SingleTurnEnv(eval_dataset=rows, rubric=vf.Rubric(funcs=[reward]))
"""


def test_a_classic_environment_plays_with_a_package_that_kumites_own_conflicts_with(
    kumite, tmp_path, out, cache, monkeypatch
):
    monkeypatch.setenv("KUMITE_CACHE", str(cache))
    (tmp_path / "pinned.py").write_text(PINNED)
    requirements = resolvable(["verifiers==0.3.1", "jsonpatch==1.32"])
    config = write_config(
        tmp_path / "config.yaml",
        environment={"id": str(tmp_path / "pinned.py"), "requirements": requirements},
        policy={"kind": "oracle"},
        workers={"max": 1},
    )
    run = kumite("run", config, "--out", out)
    assert run.wait() == 0, run.output
    assert [record.reward for record in iterate_records(out)] == [1.0]
