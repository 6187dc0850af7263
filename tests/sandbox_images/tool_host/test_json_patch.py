import json
import time
from typing import Any

import jsonpatch
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_images.tool_host.json_patch import diff

# Few values and keys, so that two of them have much in common; keys that JSON pointers must escape.
scalars = st.sampled_from([None, True, False, 0, 1, 2, 1.0, 0.5, "", "a", "b", "/", "~"])
keys = st.sampled_from(["a", "b", "", "/", "~", "~1", "a/b", "m~n", "0", "-"])
values = st.recursive(
    scalars,
    lambda inside: st.lists(inside, max_size=6) | st.dictionaries(keys, inside, max_size=5),
    max_leaves=25,
)


def strictly(value: Any) -> str:
    """A value's JSON text, in which `true`, `1` and `1.0` differ and the order of keys does not count."""
    return json.dumps(value, sort_keys=True)


@pytest.mark.slow
@given(before=values, after=values)
@example(before=True, after=1)
@example(before=[1], after=[True])
@example(before={"a": 1}, after={"a": 1.0})
@example(before=[1, 2, 3, 4, 5], after=[1, 2, 9, 4, 5])
@example(before=[1, 2, 3, 4, 5], after=[1, 5])
@example(before=[1, 5], after=[1, 2, 3, 4, 5])
@example(before=[1, 1, 1], after=[1, 1])
@example(before={"a/b": {"m~n": 1, "~1": 2}}, after={"a/b": {"m~n": 2}, "~1": 3})
@example(before={"a": None}, after={})
@example(before={"-": [0]}, after={"-": [0, 0]})
def test_patch_gives_the_target(before: Any, after: Any) -> None:
    patch = diff(before, after)
    patched = jsonpatch.apply_patch(json.loads(json.dumps(before)), json.loads(json.dumps(patch)))
    assert strictly(patched) == strictly(after)


@pytest.mark.slow
@given(value=values)
def test_equal_values_need_no_patch(value: Any) -> None:
    assert diff(value, json.loads(json.dumps(value))) == []


@pytest.mark.slow
@given(before=values, after=values)
def test_neither_value_is_changed(before: Any, after: Any) -> None:
    texts = strictly(before), strictly(after)
    diff(before, after)
    assert (strictly(before), strictly(after)) == texts


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({"a": 1}, {"a": True}, [{"op": "replace", "path": "/a", "value": True}]),
        ([1, 2, 3], [1, 2, 3, 4], [{"op": "add", "path": "/3", "value": 4}]),
        ([1, 2, 3], [1, 3], [{"op": "remove", "path": "/1"}]),
        ([{"a": 1, "b": 2}], [{"a": 1, "b": 3}], [{"op": "replace", "path": "/0/b", "value": 3}]),
        ({"a/b": {"c~d": 1}}, {"a/b": {"c~d": 2}}, [{"op": "replace", "path": "/a~1b/c~0d", "value": 2}]),
    ],
)
def test_patch_says_only_what_changed(before: Any, after: Any, patch: list[dict[str, Any]]) -> None:
    assert diff(before, after) == patch


def test_lists_in_lists_cost_no_more_than_their_size() -> None:
    """A change under 30 lists is one operation, found without comparing each level anew for each above."""

    def under(depth: int, value: Any) -> Any:
        for _ in range(depth):
            value = [0, value, 0]
        return value

    began = time.process_time()
    assert len(diff(under(30, 1), under(30, 2))) == 1
    assert time.process_time() - began < 10  # 3 to the power of 30 would be years


def test_nan_is_the_same_as_nan() -> None:
    before, after = [[1.0, float("nan"), {"a": float("nan")}] for _ in range(2)]
    assert diff(before, after) == []
    assert diff({"a": float("nan")}, {"a": 1.0}) == [{"op": "replace", "path": "/a", "value": 1.0}]
