"""Which tasks of a taskset are played: verifiers' own selection, under both of its releases."""

import random
import re
import sys

import pytest

from tests.helpers.taskset_player import list_tasks

pytestmark = pytest.mark.slow
TASKSET = """
import itertools

import verifiers.v1 as vf


class Numbers(vf.Taskset[vf.Task[vf.TaskData]]):
    INFINITE = {infinite}

    def load(self):
        for i in itertools.count() if self.INFINITE else range(10):
            yield vf.Task(vf.TaskData(idx=i, prompt=f"{{i}}?", name=f"n{{i}}"), self.config.task)


__all__ = ["Numbers"]
"""
ORDER = list(range(10))
random.Random(0).shuffle(ORDER)
OF_040 = {"include": {"idx": ["2:8"]}, "exclude": {"names": ["n3"]}, "skip": 1}
FINITE = {
    "first": {"num_tasks": 3},
    "shuffled": {"select": {"shuffle": True, "limit": 4}},
    "of 0.4.0": {"select": OF_040},
    "none": {"num_tasks": 0},
    "twice": {"num_tasks": 2, "select": {"limit": 2}},
    "text": {"select": "all"},
    "limit 0": {"select": {"limit": 0}},
}
INFINITE = {
    "first": {"num_tasks": 2},
    "limit": {"select": {"limit": 2}},
    "range": {"select": {"include": {"idx": "3:5"}}},
    "unbounded": {},
    "shuffled": {"select": {"shuffle": True}},
}


@pytest.fixture(scope="module")
def tasks(python, tmp_path_factory):
    """The tasks of a finite and of an infinite taskset, by the selection's name; or what is wrong with it."""
    folder = tmp_path_factory.mktemp("tasksets")
    found = {}
    for name, cases in (("finite", FINITE), ("infinite", INFINITE)):
        file = folder / f"{name}_numbers.py"
        file.write_text(TASKSET.format(infinite=name == "infinite"))
        listed = list_tasks(python, file, list(cases.values()))
        found |= {(name, case): result for case, result in zip(cases, listed, strict=True)}
    return found


@pytest.fixture
def is_old(python):
    return python.executable == sys.executable


def test_a_bound_takes_the_first_tasks_also_of_those_without_end(tasks):
    assert tasks["finite", "first"] == ["0", "1", "2"]
    assert tasks["infinite", "first"] == tasks["infinite", "limit"] == ["0", "1"]


def test_a_shuffle_is_verifiers_own_and_tasks_keep_their_ids(tasks):
    assert tasks["finite", "shuffled"] == [str(number) for number in ORDER[:4]]


def test_tasks_are_included_and_excluded_from_040_on(tasks, is_old):
    if is_old:
        assert (
            "select.exclude: verifiers 0.3.1 selects by limit, seed, shuffle" in tasks["finite", "of 0.4.0"]
        )
        return
    assert tasks["finite", "of 0.4.0"] == ["4", "5", "6", "7"]
    assert tasks["infinite", "range"] == ["3", "4"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (("infinite", "unbounded"), r"args\.num_tasks: .* yields tasks without end"),
        (("infinite", "shuffled"), r"args\.select.*(without end|is infinite)"),
        (("finite", "none"), r"args\.num_tasks: got 0; give a number of tasks"),
        (("finite", "twice"), r"say the same; leave one out"),
        (("finite", "text"), r"args\.select: got 'all'; give an object"),
        (("finite", "limit 0"), r"args\.select\.limit: "),
    ],
)
def test_a_wrong_selection_is_named(tasks, case, said):
    assert re.search(said, str(tasks[case])), tasks[case]
