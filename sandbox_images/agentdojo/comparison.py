"""DeepDiff, with which AgentDojo's checks compare environments, spared the parts that are the same.

A check looks for a few changes in an environment of some 1,500 values, and DeepDiff builds a path and a tree
node for every one of them: 25 ms in the workspace suite, where the tools and the set-up of an episode take
less than 10 together. A plain comparison of everything takes half a millisecond. What it finds the same, down
to the types, DeepDiff would find no difference in.
"""

import datetime
from typing import Any

from deepdiff.diff import DeepDiff
from pydantic import BaseModel

_PLAIN = frozenset({str, int, float, bool, type(None), datetime.datetime, datetime.date, datetime.time})


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal down to the types, and to the order of keys; False when in doubt."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _PLAIN:
        return bool(one == other)
    if kind is dict:
        if len(one) != len(other):
            return False
        for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
            if not (key is other_key or same(key, other_key)):
                return False
            if not (value is other_value or same(value, other_value)):
                return False
        return True
    if kind is list or kind is tuple:
        return len(one) == len(other) and all(map(same, one, other))
    # Of a model, DeepDiff looks at its fields and at what its class has.
    return issubclass(kind, BaseModel) and same(one.__dict__, other.__dict__)


def spare_deepdiff() -> None:
    """Has every later comparison in this process pass over what is the same. May be called again."""
    if getattr(DeepDiff._diff, "spared", False):
        return
    compare = DeepDiff._diff

    def compare_unless_same(self: DeepDiff, level: Any, *args: Any, **kwargs: Any) -> None:
        if self.custom_operators or not same(level.t1, level.t2):
            compare(self, level, *args, **kwargs)

    compare_unless_same.spared = True  # type: ignore[attr-defined]
    DeepDiff._diff = compare_unless_same
