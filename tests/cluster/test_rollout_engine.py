"""The Python API for a trainer's loop, on a real local Ray cluster with a policy over real HTTP."""

import asyncio
import json
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.dataset.dataset import Dataset
from cluster.dataset.episodes import iterate_records
from cluster.errors import ConfigError, RunError, UpdateRefused
from cluster.observe.policy_watch import PolicyWatch
from cluster.observe.summary import summarise_run
from cluster.policy.vllm.engine_metrics import EngineMetrics
from cluster.pool.worker_pool import WorkerPool
from cluster.rollout_engine import RolloutEngine, RolloutGroup
from tests.helpers.mock_policy import Fault, MockPolicy, Reply
from tests.helpers.sandboxes import eventually
from workers.settings import SamplingSettings

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.ray


@pytest.fixture
def policy() -> Any:
    with MockPolicy(default=Reply(content="Paris")) as policy:
        yield policy


@pytest.fixture
def config(policy: MockPolicy, kept_ray: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("KUMITE_CACHE", str(kept_ray))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return RunConfig.model_validate(
        {
            "environment": {"id": str(EXAMPLES / "short_answers.py"), "split": "train"},
            "policy": {"kind": "endpoint", "base_url": policy.base_url, "model": "mock", "token_ids": True},
            "workers": {"max": 1},
            "samples": 2,
        }
    )


async def test_a_trainers_loop_gets_groups_and_leaves_a_run(
    config: RunConfig, policy: MockPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    policy.lets_through = 0  # until a look at the policy has come, so that it comes before an episode's end
    monkeypatch.setattr("cluster.observe.policy_watch._INTERVAL", 0.05)
    idle = EngineMetrics(max_requests=4)
    monkeypatch.setattr("cluster.policy.endpoint.EndpointPolicyClient.metrics", lambda _: idle)
    heeded: list[EngineMetrics] = []

    async def heed(pool: WorkerPool, metrics: EngineMetrics) -> None:
        heeded.append(metrics)

    monkeypatch.setattr(WorkerPool, "apply_metrics", heed)
    waited_for: defaultdict[str, float] = defaultdict(float)
    look = PolicyWatch.add_metrics

    def noted_look(watch: PolicyWatch, now: float, metrics: EngineMetrics) -> None:
        look(watch, now, metrics)
        waited_for.update(watch.use.waited_for if watch.use else {})

    monkeypatch.setattr(PolicyWatch, "add_metrics", noted_look)
    async with RolloutEngine(config, tmp_path / "run") as engine:
        iteration = asyncio.create_task(all_of(engine.rollouts(3)))
        await eventually(lambda: heeded and waited_for["ramp_up"])
        policy.lets_through = None
        first = await iteration
        second = [group async for group in engine.rollouts(3, samples=4)]
        named = [group async for group in engine.rollouts(["Egypt"])]
        with pytest.raises(ConfigError, match="there is no task 'Atlantis'"):
            [group async for group in engine.rollouts(["Atlantis"])]
        with pytest.raises(UpdateRefused, match="takes no new weights"):
            await engine.update_policy("adapter", 1)
        async for _ in engine.rollouts(8, samples=8):
            break  # what is in flight is broken off
        before = waited_for["trainer"]
        await eventually(lambda: waited_for["trainer"] > before)  # none is in flight, and it learns
    with pytest.raises(RunError, match="inside its `async with`"):
        [group async for group in engine.rollouts()]

    assert heeded and all(metrics is idle for metrics in heeded), "the pool is told how busy the policy is"
    assert {group.task_id for group in first} == {"France", "Italy", "Japan"}
    assert {group.task_id for group in second} == {"Spain", "Germany", "Egypt"}
    assert [len(group.episodes) for group in first + second + named] == [2, 2, 2, 4, 4, 4, 2]
    france = next(group for group in first if group.task_id == "France")
    assert france.mean_reward == 1.0
    assert [sequence.input_ids for sequence in france.sequences()] == [[1, 2, 3, 7, 8]] * 2
    played = {episode.episode_id for group in first + second + named for episode in group.episodes}
    assert len(played) == 20, "each episode of each iteration is another one"
    assert played <= {episode.episode_id for episode in iterate_records(engine.folder)}
    summary = summarise_run(engine.folder)
    assert summary.planned == 20 + 64
    assert summary.finished + summary.cancelled == summary.planned, "what was broken off is not missing"
    assert summary.policy is not None
    assert (summary.policy.busy, sum(summary.policy.waited_for.values())) == (0.0, pytest.approx(1.0))
    assert summary.policy.waited_for["ramp_up"] and summary.policy.waited_for["trainer"]
    last = json.loads((engine.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["planned"], last["in_flight"], last["queued"]) == (84, 0, 0)


async def all_of(groups: AsyncIterator[RolloutGroup]) -> list[RolloutGroup]:
    return [group async for group in groups]


async def test_an_iteration_that_was_left_is_over_when_the_next_begins(
    config: RunConfig, policy: MockPolicy, tmp_path: Path
):
    policy.lets_through = 1
    async with RolloutEngine(config, tmp_path / "run") as engine:
        left = engine.rollouts(["France", "Italy"], samples=1)
        async for _ in left:
            break
        policy.lets_through = None
        groups = [group async for group in engine.rollouts(["Japan"], samples=1)]
        with pytest.raises(RunError, match="broken off: the engine has begun the next ones"):
            await anext(left)
        policy.lets_through, asked = 0, len(policy.requests)
        waiting = asyncio.create_task(anext(engine.rollouts(1)))
        while len(policy.requests) == asked:
            await asyncio.sleep(0.01)
    with pytest.raises(RunError, match="broken off"):
        await waiting
    assert [group.task_id for group in groups] == ["Japan"]
    assert len(list(iterate_records(engine.folder))) == 2
    summary = summarise_run(engine.folder)
    assert (summary.planned, summary.finished, summary.cancelled) == (5, 2, 3)


async def test_a_trainer_evaluates_as_it_likes_and_need_not_count_versions(
    config: RunConfig, policy: MockPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    updates: list[tuple[str, int]] = []
    client = "cluster.policy.endpoint.EndpointPolicyClient"
    monkeypatch.setattr(f"{client}.update", lambda _, path, version: updates.append((path, version)))
    monkeypatch.setattr(f"{client}.version", property(lambda _: updates[-1][1] if updates else 0))
    greedy = SamplingSettings(temperature=0.0)
    async with RolloutEngine(config, tmp_path / "run") as engine:
        trained = [group async for group in engine.rollouts(2)]
        assert [await engine.update_policy("a"), await engine.update_policy("b", 7)] == [1, 7]
        assert await engine.update_policy("c") == engine.version == 8
        asked = len(policy.requests)
        held_out = [group async for group in engine.rollouts(samples=1, split="eval", sampling=greedy)]
        with pytest.raises(ConfigError, match="split: got 'test'"):
            [group async for group in engine.rollouts(split="test")]  # type: ignore[arg-type]
        again = [group async for group in engine.rollouts(2)]
    assert updates == [("a", 1), ("b", 7), ("c", 8)]
    assert {group.task_id for group in held_out} == {"Norway", "Portugal", "Greece", "Poland"}
    assert [request["temperature"] for request in policy.requests] == [
        0.0 if asked <= i < asked + 4 else 1.0 for i in range(4 + 4 + 4)
    ]
    played = [sorted(group.task_id for group in groups) for groups in (trained, again)]
    assert played == [["France", "Italy"], ["Japan", "Spain"]]
    records = {episode.episode_id: episode for episode in iterate_records(engine.folder)}
    assert len(records) == 12
    for group in held_out:
        (episode,) = (records[episode.episode_id] for episode in group.episodes)
        assert episode.split == "eval"
        assert SamplingSettings.model_validate_json(episode.sampling or "") == greedy
    others = [episode for episode in records.values() if episode.split == "train"]
    assert len(others) == 8 and {episode.sampling for episode in others} == {None}


async def test_workers_stay_while_the_trainer_learns_and_the_log_tells_what_happened(
    config: RunConfig, policy: MockPolicy, tmp_path: Path
):
    policy.script.append(Fault("garbage"))
    workers = {"max": 2, "episodes_per_worker": 1, "idle_seconds": 0.0}
    config = RunConfig.model_validate({**config.model_dump(), "workers": workers})
    async with RolloutEngine(config, tmp_path / "run") as engine:
        pool = engine._components[0].pool
        while pool.state.up < 2:
            await asyncio.sleep(0.05)
        first = [group async for group in engine.rollouts(2, samples=2)]
        second = [group async for group in engine.rollouts(2, samples=2)]
    played_by = {episode.worker_id for group in first + second for episode in group.episodes}
    assert played_by == {"worker-0001", "worker-0002"}
    lines = [json.loads(line) for line in (engine.folder / "log.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {"run"}
    messages = " ".join(line["message"] for line in lines)
    assert "the episode is played again" in messages and "given back" not in messages


async def test_a_loop_that_was_killed_is_taken_up_again_with_other_episodes(
    config: RunConfig, policy: MockPolicy, tmp_path: Path
):
    killed = tmp_path / "killed"
    async with RolloutEngine(config, tmp_path / "run") as engine:
        first = [group async for group in engine.rollouts(2, samples=1)]
        policy.lets_through = 3
        async for group in engine.rollouts(2, samples=1):
            first.append(group)
            shutil.copytree(engine.folder, killed)  # what a SIGKILL would leave: one of two is on disk
            break
        policy.lets_through = None
    with pytest.raises(ConfigError, match=r"there is a run in it already.*RolloutEngine: resume=True"):
        RolloutEngine(config, killed)
    with pytest.raises(ConfigError, match=r"samples: was 2, is 3"):
        RolloutEngine(config.model_copy(update={"samples": 3}), killed, resume=True)
    async with RolloutEngine(config, killed, resume=True) as engine:
        second = [group async for group in engine.rollouts(2, samples=1)]
    assert {group.task_id for group in second} == {"Germany", "Egypt"}
    assert all(group.group_id == f"run/{group.task_id}/3" for group in second)
    records = list(iterate_records(killed))
    assert sorted(record.episode_id for record in records) == sorted(
        episode.episode_id for group in first + second for episode in group.episodes
    )
    summary = summarise_run(killed)
    assert (summary.planned, summary.finished, summary.cancelled) == (6, 5, 1)


async def test_an_engine_that_does_not_come_up_lets_go_of_its_folder(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise RunError("nothing can be measured")

    monkeypatch.setattr("cluster.measures.RunObservers.observing", refuse)
    with pytest.raises(RunError, match="nothing can be measured") as raised:
        async with RolloutEngine(config, tmp_path / "run"):
            pass
    assert raised.traceback, "which holds all that would be let go of by chance"
    assert not (tmp_path / "run" / ".reserve").exists()
    async with await Dataset.open(tmp_path / "run", "run") as dataset:
        assert not dataset.manifest.shards


def test_over_sampling_is_refused(tmp_path: Path):
    config = RunConfig.model_validate(
        {"environment": {"id": "e"}, "policy": {"kind": "oracle"}, "samples": 4, "keep": 2}
    )
    with pytest.raises(ConfigError, match="keep: a rollout engine plays every episode"):
        RolloutEngine(config, tmp_path)
