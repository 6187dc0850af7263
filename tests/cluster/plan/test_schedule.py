"""What the iterations of a trainer's loop play."""

from typing import Any, cast

import pytest

from cluster.config import RunConfig
from cluster.dataset.manifest import LoopPlace
from cluster.errors import ConfigError
from cluster.plan.plan import Plan
from cluster.plan.schedule import Schedule
from tests.cluster.plan.test_plan import FakeEnvironment
from workers.settings import SamplingSettings


class CountingRows:
    """Rows that count how often they are read."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.read += 1
        return self.rows[index]


def schedule(tasks, **fields):
    config = RunConfig.model_validate({"environment": {"id": "e"}, "policy": {"kind": "oracle"}, **fields})
    environment = FakeEnvironment(tasks)
    environment._rows = CountingRows(environment._rows)
    return again(config, environment), environment._rows


def again(config, environment, place=None):
    return Schedule(lambda split: Plan(of_split(config, split), environment, "r"), place)


def of_split(config, split):
    environment = config.environment.model_copy(update={"split": split})
    return config.model_copy(update={"environment": environment})


def ids(groups):
    return [group[0].task_id for group in groups]


def test_tasks_are_taken_in_turn_round_and_round():
    turns, _ = schedule(3)
    assert [ids(turns.groups(2, 1, "train")) for _ in range(3)] == [["t0", "t1"], ["t2", "t0"], ["t1", "t2"]]
    assert ids(turns.groups(None, 1, "train")) == ["t0", "t1", "t2"]
    assert ids(turns.groups(["t2", "t0"], 1, "train")) == ["t2", "t0"]


@pytest.mark.parametrize("tasks", [5, ["t0", "t1", "t0", "t1", "t0"]])
def test_a_task_that_comes_again_is_another_group_of_other_episodes(tasks):
    turns, _ = schedule(2)
    iterations = [turns.groups(tasks, 2, "train"), turns.groups(2, 3, "train"), turns.groups(2, 2, "train")]
    groups = [group for iteration in iterations for group in iteration]
    specs = [spec for group in groups for spec in group]
    assert len({group[0].group_id for group in groups}) == len(groups) == 9
    assert len({spec.episode_id for spec in specs}) == len(specs) == 5 * 2 + 2 * 3 + 2 * 2
    assert all(len({spec.group_id for spec in group}) == 1 for group in groups)


def test_each_split_has_a_round_of_its_own_and_no_episode_in_common():
    turns, _ = schedule(3)
    greedy = SamplingSettings(temperature=0.0)
    iterations = [
        turns.groups(2, 2, "train"),
        turns.groups(2, 1, "eval", greedy),
        turns.groups(2, 2, "train"),
    ]
    assert [ids(groups) for groups in iterations] == [["t0", "t1"], ["t0", "t1"], ["t2", "t0"]]
    specs = [[spec for group in groups for spec in group] for groups in iterations]
    assert [{spec.split for spec in part} for part in specs] == [{"train"}, {"eval"}, {"train"}]
    assert [[spec.sampling for spec in part] for part in specs] == [[None] * 4, [greedy] * 2, [None] * 4]
    assert len({spec.episode_id for part in specs for spec in part}) == 4 + 2 + 4
    assert len({spec.group_id for part in specs for spec in part}) == 6


def test_a_loop_that_is_taken_up_again_goes_on_where_it_was():
    config = RunConfig.model_validate({"environment": {"id": "e"}, "policy": {"kind": "oracle"}})
    environment = FakeEnvironment(3)
    whole, first = again(config, environment), again(config, environment)
    asked = [(2, 2, "train"), (["t0", "t0"], 1, "train"), (1, 1, "eval"), (2, 2, "train"), (1, 1, "eval")]

    def ids_of(turns, part):
        return [[spec.episode_id for group in turns.groups(*a) for spec in group] for a in part]

    expected = ids_of(whole, asked)
    before = ids_of(first, asked[:3])
    place = LoopPlace.model_validate_json(first.place.model_dump_json())
    assert before + ids_of(again(config, environment, place), asked[3:]) == expected


def test_no_more_tasks_are_read_than_are_taken():
    turns, rows = schedule(1000)
    for _ in range(2):
        turns.groups(3, 1, "train")
        assert rows.read <= 1000 + 64, "each once by the plan, which looks at their ids, and a window of it"


@pytest.mark.parametrize(
    ("tasks", "samples", "complaint"),
    [
        (0, 1, r"tasks: got 0; give 1 or more"),
        (-1, 1, r"tasks: got -1; give 1 or more"),
        ("t0", 1, r"tasks: got the text 't0'; give a list of ids, \['t0'\]"),
        (["t9"], 1, r"tasks: there is no task 't9' in e$"),
        (1, 0, r"samples: got 0; give 1 or more"),
        (1, -2, r"samples: got -2; give 1 or more"),
    ],
)
def test_what_cannot_be_played_is_named(tasks, samples, complaint):
    with pytest.raises(ConfigError, match=complaint):
        schedule(2)[0].groups(tasks, samples, "train")


def test_a_split_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match=r"split: got 'test'; it must be one of train, eval"):
        schedule(2)[0].groups(1, 1, cast(Any, "test"))


def test_a_task_beyond_the_limit_is_said_to_be():
    with pytest.raises(ConfigError, match=r"there is no task 't2' in the first 2 of e \(limit\)"):
        schedule(3, limit=2)[0].groups(["t2"], 1, "train")
