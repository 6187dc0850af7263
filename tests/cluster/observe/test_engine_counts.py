"""What a replica's engine is counted by, on vLLM's own statistics."""

import pytest

pytestmark = pytest.mark.vllm


def test_requests_whose_grammar_is_not_ready_wait_like_the_others():
    stats = pytest.importorskip("vllm.v1.metrics.stats")
    config = pytest.importorskip("vllm.config")
    from cluster.policy.vllm.engine import EngineStepCounts

    counts = EngineStepCounts(config.VllmConfig())
    counts.record(
        stats.SchedulerStats(num_running_reqs=4, num_waiting_reqs=1, num_skipped_waiting_reqs=27), None
    )
    assert (counts.metrics.running, counts.metrics.waiting) == (4, 28)
