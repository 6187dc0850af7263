"""How many episodes the policy has use for, by scripted looks at its deployment."""

from typing import Any

from cluster.policy.vllm.engine_metrics import EngineMetrics
from cluster.pool.headroom import Headroom


def engine(running: int, waiting: int, replicas: int = 1) -> EngineMetrics:
    return EngineMetrics(running=running, waiting=waiting, replicas=replicas)


def after(looks: list[EngineMetrics], in_flight: int, **settings: Any) -> Headroom:
    made = Headroom(**{"floor": 4, "ceiling": 128, **settings})
    for metrics in looks:
        made.update_limit(metrics, in_flight)
    return made


def test_a_queue_that_lasts_is_taken_off_but_for_a_tenth_of_the_batch():
    assert after([engine(20, 40)] * 5, in_flight=70).limit == 70 - (40 - 2)


def test_a_queue_that_comes_and_goes_limits_nothing():
    assert after([engine(20, 40), engine(20, 40), engine(20, 1)] * 5, in_flight=70).limit is None


def test_the_limit_stays_while_its_last_step_has_yet_to_take_effect():
    assert after([engine(20, 40)] * 50, in_flight=70).limit == 32


def test_no_fewer_than_the_fewest_workers_take():
    assert after([engine(2, 60)] * 5, in_flight=62, floor=16).limit == 16


def test_a_queue_that_is_gone_raises_the_limit_until_it_limits_nothing():
    made = after([engine(20, 40)] * 5, in_flight=70)
    limits = [made.limit]
    while made.limit is not None:
        made.update_limit(engine(20, 0), made.limit)
        limits.append(made.limit)
    steps = limits[::5]
    assert steps == [32, 40, 50, 63, 79, 99, 124, None]


def test_a_short_queue_neither_lowers_nor_raises_it():
    made = after([engine(20, 40)] * 5, in_flight=70)
    for _ in range(20):
        made.update_limit(engine(20, 2), 32)
    assert made.limit == 32


def test_a_deployment_that_may_still_add_replicas_keeps_its_queue():
    assert after([engine(20, 40, replicas=1)] * 9, in_flight=70, replicas=2).limit is None
    assert after([engine(20, 40, replicas=2)] * 9, in_flight=70, replicas=2).limit is not None


def test_the_batch_stays_full_and_is_found_again_when_it_grows():
    """Episodes start as the limit allows and end one a second; all are with the policy all the time."""
    made, in_flight, running = Headroom(floor=4, ceiling=128), 128, 0
    for second in range(600):
        batch = 32 if second < 300 else 64
        running = min(batch, in_flight)
        assert running == batch or second >= 300
        made.update_limit(engine(running, in_flight - running), in_flight)
        in_flight = max(in_flight - 1, min(128, made.limit or 128))
        if second == 299:
            assert in_flight <= 36
    assert running == 64
