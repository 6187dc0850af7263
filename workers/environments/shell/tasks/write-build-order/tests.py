def test_needs_come_first(subject):
    needs = {"app": ["lib", "conf"], "lib": ["base"], "conf": []}
    assert subject.call("build_order.order", needs) == ["base", "conf", "lib", "app"]


def test_alphabet_decides_at_every_step(subject):
    needs = {"a": ["z"], "b": [], "c": ["b"], "z": []}
    assert subject.call("build_order.order", needs) == ["b", "c", "z", "a"]


def test_nothing(subject):
    assert subject.call("build_order.order", {}) == []


def test_repeated_needs_count_once(subject):
    assert subject.call("build_order.order", {"x": ["y", "y"], "y": []}) == ["y", "x"]


def cycle_of(subject, needs):
    code = """
from build_order import order, CycleError
try:
    order(needs)
    result = None
except CycleError as error:
    result = [isinstance(error, ValueError), list(error.cycle)]
"""
    is_value_error, cycle = subject.evaluate(code, needs=needs)
    assert is_value_error
    assert len(cycle) == len(set(cycle)) > 0
    for one, next_one in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        assert next_one in needs[one]
    return cycle


def test_cycle_is_named(subject):
    needs = {"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": [], "e": ["a"]}
    assert set(cycle_of(subject, needs)) == {"a", "b", "c"}


def test_target_that_needs_itself(subject):
    assert cycle_of(subject, {"a": ["a"], "b": ["a"]}) == ["a"]


def test_targets_behind_a_cycle_are_not_in_it(subject):
    needs = {"m": ["n"], "n": ["o"], "o": ["p"], "p": ["o"], "q": ["m"]}
    assert set(cycle_of(subject, needs)) == {"o", "p"}


def test_long_chain(subject):
    code = """
from build_order import order
needs = {f"t{i:05}": [f"t{i + 1:05}"] for i in range(50_000)}
made = order(needs)
result = [len(made), made[0], made[-1]]
"""
    assert subject.evaluate(code) == [50_001, "t50000", "t00000"]


def test_long_cycle(subject):
    code = """
from build_order import order, CycleError
try:
    order({str(i): [str((i + 1) % 30_000)] for i in range(30_000)})
except CycleError as error:
    result = len(error.cycle)
"""
    assert subject.evaluate(code) == 30_000
