import itertools
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.plan.plan import Plan
from workers.environments.base import TaskEnvironment
from workers.records import episode_id


class FakeEnvironment(TaskEnvironment):
    toolset = None

    def __init__(self, tasks, needs_groups=False):
        self.needs_groups = needs_groups
        self._rows: Any = [
            {"example_id": i, "prompt": [], "info": {"task_id": f"t{i}"}} for i in range(tasks)
        ]

    def rows(self):
        return self._rows


def config(**fields):
    return RunConfig.model_validate({"environment": {"id": "e"}, "policy": {"kind": "oracle"}, **fields})


def ids(plan):
    return [spec.task_id for unit in plan.units() for spec in unit]


def test_every_task_is_sampled_as_often_as_asked():
    plan = Plan(config(samples=3), FakeEnvironment(4), "r")
    specs = [spec for unit in plan.units() for spec in unit]
    assert plan.episodes == len(specs) == 12
    assert len({spec.episode_id for spec in specs}) == 12
    assert {(spec.task_id, spec.sample_index) for spec in specs} == {
        (f"t{task}", sample) for task in range(4) for sample in range(3)
    }


def test_episode_identity_does_not_depend_on_the_run():
    one, other = (next(Plan(config(), FakeEnvironment(1), run).units())[0] for run in ("a", "b"))
    assert one.episode_id == other.episode_id == episode_id("e", "t0", 0)
    assert one.group_id != other.group_id


def test_tasks_of_two_splits_that_are_numbered_alike_are_others():
    specs = [
        next(Plan(config(environment={"id": "e", "split": split}), FakeEnvironment(1), "r").units())[0]
        for split in ("train", "eval")
    ]
    assert [spec.split for spec in specs] == ["train", "eval"]
    assert specs[0].episode_id != specs[1].episode_id


def test_the_same_seed_gives_the_same_order_and_another_another():
    orders = [ids(Plan(config(shuffle=True, seed=s), FakeEnvironment(50), "r")) for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_without_a_seed_the_order_is_the_runs_own_and_the_same_when_it_is_resumed():
    orders = [ids(Plan(config(shuffle=True), FakeEnvironment(50), run)) for run in ("a", "a", "b")]
    assert orders[0] == orders[1] != orders[2]


def test_two_tasks_with_one_id_are_refused():
    environment = FakeEnvironment(3)
    environment._rows[2]["info"] = {"task_id": "t0"}
    with pytest.raises(ConfigError, match=r"environment\.id: two tasks of e have the id 't0'; give each"):
        Plan(config(), environment, "r")
    assert Plan(config(limit=2), environment, "r").tasks == 2


def test_of_a_shuffled_orders_neighbours_those_with_the_same_tools_follow_each_other():
    def suites(**fields):
        environment = FakeEnvironment(640)
        for i, row in enumerate(environment._rows):
            row["info"]["suite"] = f"suite{i % 4}"
        return [row["info"]["suite"] for row in Plan(config(**fields), environment, "r").rows()]

    def changes(order):
        return sum(one != other for one, other in itertools.pairwise(order))

    shuffled = suites(shuffle=True, seed=1)
    assert shuffled == suites(shuffle=True, seed=1)
    assert changes(shuffled) <= 10 * 4
    assert all(len(set(shuffled[i : i + 64])) == 4 for i in range(0, 640, 64)), "each part is a fair sample"
    assert changes(suites()) == 639, "an order that was given is kept"


def test_limit_takes_the_first_tasks():
    assert ids(Plan(config(limit=2), FakeEnvironment(9), "r")) == ["t0", "t1"]


def test_an_environment_that_scores_groups_gets_them_whole():
    units = list(Plan(config(samples=4), FakeEnvironment(2, needs_groups=True), "r").units())
    assert [len(unit) for unit in units] == [4, 4]


def test_a_selection_of_nothing_is_an_error():
    with pytest.raises(ConfigError, match=r"environment\.args: they select no task"):
        Plan(config(), FakeEnvironment(0), "r")


def test_of_over_sampled_groups_what_has_begun_is_counted_and_what_is_full_is_surplus():
    plan = Plan(config(samples=4, keep=2), FakeEnvironment(3), "r")
    groups = [
        [spec.episode_id for unit in plan.units() for spec in unit if spec.task_id == f"t{i}"]
        for i in range(3)
    ]
    begun, surplus = plan.begun({groups[0][0], *groups[1][1:3]})
    assert begun == {"r/t0": 1}
    assert surplus == {groups[1][0], groups[1][3]}


def test_groups_that_are_scored_together_are_not_over_sampled():
    with pytest.raises(ConfigError, match="keep: e scores the episodes of a group together"):
        Plan(config(samples=4, keep=2), FakeEnvironment(1, needs_groups=True), "r")


def test_no_more_are_kept_than_sampled():
    with pytest.raises(ValueError, match="keep is 3, but samples is only 2"):
        config(samples=2, keep=3)
