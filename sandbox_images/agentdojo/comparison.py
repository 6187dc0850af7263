"""DeepDiff, with which AgentDojo's checks compare environments, spared the parts that are the same.

A check looks for a few changes in an environment of some 1,500 values, and DeepDiff builds a path and a tree
node for every one of them: 25 ms in the workspace suite, where the tools and the set-up of an episode take
less than 10 together. A plain comparison of everything takes half a millisecond. What it finds the same, down
to the types, DeepDiff would find no difference in.
"""
# What is patched here are methods that DeepDiff keeps to itself.
# pyright: reportPrivateUsage=false

import datetime
from collections.abc import Callable
from typing import Any

from deepdiff.diff import DeepDiff
from pydantic import BaseModel

_type_of: Callable[[Any], type[Any]] = type
_PLAIN_TYPES = frozenset({str, int, float, bool, type(None), datetime.datetime, datetime.date, datetime.time})


def are_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal down to the types, and to the order of keys; False when in doubt."""
    if one is other:
        return True
    kind = _type_of(one)
    if kind is not type(other):
        return False
    if kind in _PLAIN_TYPES:
        return bool(one == other)
    if kind is dict:
        if len(one) != len(other):
            return False
        for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
            if not (key is other_key or are_equal(key, other_key)):
                return False
            if not (value is other_value or are_equal(value, other_value)):
                return False
        return True
    if kind is list or kind is tuple:
        return len(one) == len(other) and all(map(are_equal, one, other))
    # Of a model, DeepDiff looks at its fields and at what its class has.
    return issubclass(kind, BaseModel) and are_equal(one.__dict__, other.__dict__)


def install_fast_comparison() -> None:
    """Has DeepDiff pass over what is the same from now on, in this process. May be called again."""
    if hasattr(DeepDiff._diff, "unspared"):
        return
    compare, compare_dicts = DeepDiff._diff, DeepDiff._diff_dict

    def compare_unless_same(self: DeepDiff, level: Any, *args: Any, **kwargs: Any) -> None:
        if self.custom_operators or not are_equal(level.t1, level.t2):
            compare(self, level, *args, **kwargs)

    def compare_what_differs(
        self: DeepDiff,
        level: Any,
        parents_ids: frozenset[int] = frozenset(),
        print_as_attribute: bool = False,
        override: bool = False,
        override_t1: Any = None,
        override_t2: Any = None,
        local_tree: Any = None,
    ) -> None:
        one, other = (override_t1, override_t2) if override else (level.t1, level.t2)
        if not self.custom_operators:
            one, other = _drop_equal_items(one, other, self.threshold_to_diff_deeper or 0)
        compare_dicts(self, level, parents_ids, print_as_attribute, True, one, other, local_tree)

    compare_unless_same.unspared = compare  # pyright: ignore[reportFunctionMemberAccess] - read by the line above
    compare_what_differs.unspared = compare_dicts  # pyright: ignore[reportFunctionMemberAccess] - as above
    DeepDiff._diff = compare_unless_same
    DeepDiff._diff_dict = compare_what_differs


def _drop_equal_items(one: Any, other: Any, threshold: float) -> tuple[Any, Any]:
    """Two mappings without what is the same in both.

    Where fewer than `threshold` of all keys are in both, DeepDiff takes the two for wholly different: as many
    of the same are kept as keep it from that, where it would not have done so before.
    """
    shared = one.keys() & other.keys()
    unshared = len(one) + len(other) - 2 * len(shared)
    if len(shared) < threshold * (len(shared) + unshared):
        return one, other
    alike = [key for key in one if key in shared and are_equal(one[key], other[key])]
    kept = len(shared) - len(alike)
    while alike and kept < threshold * (kept + unshared):
        alike.pop()
        kept += 1
    dropped = set(alike)
    return (
        {key: value for key, value in one.items() if key not in dropped},
        {key: value for key, value in other.items() if key not in dropped},
    )
