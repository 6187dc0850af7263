"""What the benchmarks need of the project is there: they are not run by the tests."""

from benchmarks.scaling import nodes
from cluster.config import RunConfig
from cluster.plan.plan import load_plan


def test_simulated_nodes_are_given_episodes_that_can_be_played():
    config = RunConfig.model_validate(nodes.make_config(2, "127.0.0.1:1"))
    environment, plan = load_plan(config, "run")
    assert environment.toolset is None
    assert plan.episodes == 2 * nodes.PER_WORKER * nodes.ROUNDS
    assert all(row["answer"] for row in plan.rows()), "which is what the oracle says"
