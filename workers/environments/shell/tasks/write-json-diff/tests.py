def test_objects(subject):
    old, new = {"a": 1, "b": 2, "c": {"x": 1, "y": 2}}, {"b": 3, "c": {"y": 2, "z": None}, "d": []}
    assert subject.call("jsondiff.diff", old, new) == [
        {"op": "remove", "path": ["a"]},
        {"op": "replace", "path": ["b"], "value": 3},
        {"op": "remove", "path": ["c", "x"]},
        {"op": "add", "path": ["c", "z"], "value": None},
        {"op": "add", "path": ["d"], "value": []},
    ]


def test_keys_come_in_alphabetical_order(subject):
    old, new = {"m": 1, "z": [{"b": 1, "a": 1}], "c": 1}, {"y": 2, "z": [{"b": 2, "a": 2}], "a": 2, "m": 2}
    changes = subject.call("jsondiff.diff", old, new)
    assert [[change["op"], *change["path"]] for change in changes] == [
        ["add", "a"], ["remove", "c"], ["replace", "m"], ["add", "y"], ["replace", "z", 0, "a"], ["replace", "z", 0, "b"],
    ]  # fmt: skip


def test_arrays(subject):
    assert subject.call("jsondiff.diff", [1, {"k": 2}, 3], [1, {"k": 5}, 4]) == [
        {"op": "replace", "path": [1, "k"], "value": 5},
        {"op": "replace", "path": [2], "value": 4},
    ]
    assert subject.call("jsondiff.diff", {"a": [1, 2]}, {"a": [1, 2, 3]}) == [
        {"op": "replace", "path": ["a"], "value": [1, 2, 3]}
    ]


def test_types_matter(subject):
    code = "from jsondiff import diff\nresult = [len(diff(a, b)) for a, b in ((True, 1), (1, 1.0), ([], {}), (0, False), (None, False), ([[1]], [[True]]), (2, 2), (1.5, 1.5))]"
    assert subject.evaluate(code) == [1, 1, 1, 1, 1, 1, 0, 0]


def test_whole_value_is_replaced(subject):
    assert subject.call("jsondiff.diff", {"a": 1}, [1]) == [{"op": "replace", "path": [], "value": [1]}]


def test_apply_is_the_inverse(subject):
    code = """
import json, random
from jsondiff import apply, diff
rng = random.Random(seed)
def value(depth):
    kind = rng.randrange(8 if depth else 5)
    if kind < 5:
        return rng.choice([None, True, False, 0, 1, 1.0, 2.5, "", "x", "y"])
    if kind < 7:
        return {k: value(depth - 1) for k in rng.sample("abcdef", rng.randrange(5))}
    return [value(depth - 1) for _ in range(rng.randrange(4))]
result = []
for _ in range(400):
    old, new = value(4), value(4)
    before = json.dumps(old)
    made = apply(old, diff(old, new))
    if json.dumps(made, sort_keys=True) != json.dumps(new, sort_keys=True) or json.dumps(old) != before:
        result.append([old, new, made])
"""
    assert subject.evaluate(code, seed=11) == []


def test_equal_values_need_no_change(subject):
    code = "from jsondiff import apply, diff\nv = {'a': [1, {'b': None}], 'c': 'd'}\nresult = [diff(v, v), apply(v, [])]"
    assert subject.evaluate(code) == [[], {"a": [1, {"b": None}], "c": "d"}]


def test_result_shares_nothing_with_the_original(subject):
    code = """
from jsondiff import apply
old = {"a": {"deep": [1]}, "b": 2}
made = apply(old, [{"op": "replace", "path": ["b"], "value": 3}])
made["a"]["deep"].append(2)
result = old
"""
    assert subject.evaluate(code) == {"a": {"deep": [1]}, "b": 2}


def test_changes_that_cannot_be_made_are_errors(subject):
    code = """
from jsondiff import apply
result = []
for change in changes:
    try:
        result.append([change, apply({"a": {"b": 1}, "l": [1, 2]}, [change])])
    except ValueError:
        pass
"""
    changes = [
        {"op": "add", "path": ["a"], "value": 1},
        {"op": "remove", "path": ["x"]},
        {"op": "replace", "path": ["x"], "value": 1},
        {"op": "replace", "path": ["x", "y"], "value": 1},
        {"op": "replace", "path": ["a", "b", "c"], "value": 1},
        {"op": "replace", "path": ["l", 2], "value": 1},
        {"op": "replace", "path": ["l", -1], "value": 1},
        {"op": "replace", "path": ["l", "0"], "value": 1},
        {"op": "add", "path": ["l", 2], "value": 1},
        {"op": "remove", "path": ["l", 0]},
        {"op": "remove", "path": []},
        {"op": "add", "path": [], "value": 1},
        {"op": "move", "path": ["a"]},
    ]
    assert subject.evaluate(code, changes=changes) == []


def test_everything_can_be_replaced(subject):
    change = {"op": "replace", "path": [], "value": [7]}
    assert subject.call("jsondiff.apply", {"a": 1}, [change]) == [7]
