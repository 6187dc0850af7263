"""How busy the policy was, and what it waited for."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import PolicyUnavailable
from cluster.observe.meter import Meter
from cluster.observe.policy_use import PolicyUse, compute_policy_shares
from cluster.observe.policy_watch import PolicyWatch
from cluster.policy.vllm.engine_metrics import EngineMetrics, total_metrics
from cluster.pool.worker_pool import PoolState
from tests.cluster.synthetic import episode, result
from workers.records import EpisodeSpec, Timings


def specs(count: int) -> list[EpisodeSpec]:
    return [
        EpisodeSpec(episode_id=str(i), task_id="t", group_id="g", sample_index=i, row={})
        for i in range(count)
    ]


def engine(running: int, **counts: Any) -> EngineMetrics:
    return EngineMetrics(running=running, max_requests=10, **counts)


def watch(planned: int, in_flight: int, ended: int = 1) -> PolicyWatch:
    """A run of so many episodes, of which one has ended that spent 1 s in set-up and 3 s in tools."""
    made = PolicyWatch(lambda: None, planned)
    made.dispatched(specs(in_flight + ended))
    made.returned(specs(ended))
    timings = Timings(setup=1.0, policy=5.0, tools=3.0, total=9.0)
    for spec in specs(ended):
        made.ended(spec, result(episode(timings=timings)))
    made.add_metrics(0.0, engine(0))
    return made


def waited(made: PolicyWatch) -> dict[str, float]:
    assert made.use is not None
    return {cause: round(seconds, 6) for cause, seconds in made.use.waited_for.items() if seconds}


def test_a_full_batch_is_busy():
    made = watch(planned=100, in_flight=20)
    made.add_metrics(2.0, engine(10))
    made.add_metrics(3.0, engine(8, waiting=5))
    assert made.use is not None
    assert (made.use.busy_seconds, made.use.seconds, waited(made)) == (3.0, 3.0, {})


def test_before_any_episode_has_ended_it_is_ramp_up():
    made = watch(planned=100, in_flight=20, ended=0)
    made.add_metrics(2.0, engine(4))
    assert waited(made) == {"ramp_up": 2.0}


def test_episodes_that_are_elsewhere_are_told_apart_by_where_episodes_spend_their_time():
    made = watch(planned=100, in_flight=10)
    made.add_metrics(4.0, engine(2))
    assert waited(made) == {"sandbox": 1.0, "tools": 3.0}


def test_places_that_workers_lack_and_the_tail_are_told_apart():
    made = watch(planned=100, in_flight=5)
    made.add_metrics(1.0, engine(5))
    assert waited(made) == {"places": 1.0}
    made = watch(planned=6, in_flight=5)
    made.add_metrics(1.0, engine(5))
    assert waited(made) == {"tail": 1.0}


def test_between_a_trainers_iterations_it_is_the_trainer():
    made = PolicyWatch(lambda: None, 0, between="trainer")
    made.add_metrics(0.0, engine(0))
    made.expect(1)
    made.add_metrics(1.0, engine(0))
    made.dispatched(specs(1))
    made.returned(specs(1))
    made.ended(specs(1)[0], result(episode()))
    made.add_metrics(3.0, engine(0))
    assert waited(made) == {"ramp_up": 1.0, "trainer": 2.0}


def test_a_kept_deployments_earlier_work_is_not_this_runs():
    made = PolicyWatch(lambda: None, 1)
    made.add_metrics(0.0, engine(1, generated_tokens=1000, prefix_queries=500, prefix_hits=400))
    made.add_metrics(2.0, engine(1, generated_tokens=1100, prefix_queries=700, prefix_hits=550))
    assert made.use is not None
    assert (made.use.generated_tokens, made.use.prefix_queries, made.use.prefix_hits) == (100, 200, 150)
    assert made.use.tokens_per_second == 50.0


def test_replicas_add_up():
    both = total_metrics([engine(3, kv_cache_usage=0.2), engine(4, kv_cache_usage=0.4)])
    assert (both.running, both.max_requests, both.kv_cache_usage) == (7, 20, pytest.approx(0.3))


async def test_a_policy_that_does_not_answer_for_a_while_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.observe.policy_watch._INTERVAL", 0.01)
    answers = iter([PolicyUnavailable("not yet"), engine(1), PolicyUnavailable("gone"), engine(2)])

    def ask() -> EngineMetrics:
        answer = next(answers, engine(3))
        if isinstance(answer, PolicyUnavailable):
            raise answer
        return answer

    heeded: list[int] = []

    async def heed(metrics: EngineMetrics) -> None:
        heeded.append(metrics.running)

    made = PolicyWatch(ask, 1, heed)
    async with made.watching():
        while made.use is None or made.use.running < 3:
            await asyncio.sleep(0.01)
    assert heeded[:3] == [1, 2, 3]
    idle = PolicyWatch(ask, 0, heed, between="trainer")
    async with idle.watching():
        heeded.clear()
    assert not heeded, "between two iterations nothing is learnt of what the policy has use for"


async def test_the_summary_adds_up_what_all_processes_of_a_run_saw(tmp_path: Path):
    pool = PoolState(up=1, starting=0, pending=0, in_flight=1, nodes=1, lost=0)
    for seconds, hits in ((3.0, 30), (1.0, 0)):
        use = PolicyUse(
            seconds=seconds,
            busy_seconds=1.0,
            prefix_queries=50,
            prefix_hits=hits,
            generated_tokens=100,
            waited_for={"tail": seconds - 1.0},
        )
        async with Meter(tmp_path, None, lambda: pool, 1, lambda use=use: use).writing(3600):
            pass
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"torn')
    found = compute_policy_shares(tmp_path / "metrics.jsonl")
    assert found is not None
    assert (found.prefix_hit_rate, found.tokens_per_second, found.busy) == (0.3, 50.0, 0.5)
    assert found.waited_for == {"tail": 0.5}


def test_a_run_whose_policy_cannot_tell_has_no_shares(tmp_path: Path):
    assert compute_policy_shares(tmp_path / "metrics.jsonl") is None


def counting(name: str, sampled: int) -> EngineMetrics:
    return EngineMetrics(
        name=name, generated_tokens=sampled, prompt_tokens=2 * sampled, prefix_queries=sampled
    )


def test_counts_go_on_when_a_replica_is_started_anew() -> None:
    made = PolicyWatch(lambda: None, 10)
    for second, sampled in enumerate((1000, 1300, 40, 90)):
        made.add_metrics(float(second), engine(1, generated_tokens=sampled, prompt_tokens=sampled))
        assert made.use is not None
        assert made.use.tokens_per_second >= 0 and made.use.generated_tokens >= 0
    assert made.use is not None
    assert made.use.generated_tokens == made.use.prompt_tokens == 300 + 40 + 50
    assert made.use.tokens_per_second == 50.0


def test_of_several_replicas_each_is_counted_on_by_itself() -> None:
    made = PolicyWatch(lambda: None, 10)
    made.add_metrics(0.0, total_metrics([counting("a", 900), counting("b", 500)]))
    made.add_metrics(1.0, total_metrics([counting("b", 600), counting("a", 1000)]))
    made.add_metrics(2.0, total_metrics([counting("c", 30), counting("b", 700)]))  # in the place of a
    made.add_metrics(3.0, total_metrics([counting("c", 50), counting("b", 700), counting("d", 5)]))
    assert made.use is not None
    assert made.use.generated_tokens == 200 + 130 + 25
    assert made.use.prompt_tokens == 2 * made.use.generated_tokens
    assert made.use.tokens_per_second == 25.0


def test_of_replicas_without_names_no_count_falls() -> None:
    made = PolicyWatch(lambda: None, 10)
    unnamed = [[900, 500], [950, 510], [950, 3], [960, 20]]
    seen: list[int] = []
    for second, counts in enumerate(unnamed):
        made.add_metrics(
            float(second), total_metrics([EngineMetrics(generated_tokens=count) for count in counts])
        )
        assert made.use is not None and made.use.tokens_per_second >= 0
        seen.append(made.use.generated_tokens)
    assert seen == [0, 60, 60, 87]


def lines(path: Path, *processes: list[tuple[float, dict[str, Any] | None]], named: bool) -> Path:
    """Lines of `metrics.jsonl`: of each process its elapsed seconds, and what the policy said."""
    with path.open("w", encoding="utf-8") as file:
        for number, process in enumerate(processes):
            for elapsed, use in process:
                line = {"elapsed": elapsed, "policy": use} | ({"process": str(number)} if named else {})
                file.write(json.dumps(line) + "\n")
    return path


@pytest.mark.parametrize("named", [True, False])
def test_a_short_earlier_process_counts_too(tmp_path: Path, named: bool) -> None:
    short = [(0.0, None), (5.0, {"seconds": 5.0, "busy_seconds": 5.0, "generated_tokens": 500})]
    long = [
        (0.0, None),
        (10.0, {"seconds": 10.0, "generated_tokens": 100}),
        (15.0, {"seconds": 15.0, "generated_tokens": 100}),
    ]
    found = compute_policy_shares(lines(tmp_path / "metrics.jsonl", short, long, named=named))
    assert found is not None
    assert (found.busy, found.tokens_per_second) == (0.25, 30.0)


def test_counts_below_0_of_an_older_version_make_no_figure_below_0(tmp_path: Path) -> None:
    spoilt = {"seconds": 10.0, "generated_tokens": -900, "prefix_queries": -5, "prefix_hits": -9}
    found = compute_policy_shares(lines(tmp_path / "metrics.jsonl", [(10.0, spoilt)], named=False))
    assert found is not None
    assert (found.tokens_per_second, found.prefix_hit_rate) == (0.0, None)


def test_each_process_names_its_lines(tmp_path: Path) -> None:
    state = PoolState(up=0, starting=0, pending=0, in_flight=0, nodes=0, lost=0)
    names = {Meter(tmp_path, None, lambda: state, 0).line().process for _ in range(2)}
    assert len(names) == 2 and None not in names
