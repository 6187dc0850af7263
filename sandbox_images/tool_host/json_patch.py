"""JSON patches (RFC 6902) between two states: small where little changed, and quick where nothing did."""

import marshal
from typing import Any, cast

Patch = list[dict[str, Any]]


def diff(before: Any, after: Any, path: str = "") -> Patch:
    """The patch that turns `before` into `after`; both are JSON values, `path` a JSON pointer to them."""
    if _same(before, after):
        return []
    if type(before) is type(after):
        if isinstance(before, dict):
            return _diff_objects(cast(dict[str, Any], before), after, path)
        if isinstance(before, list):
            return _diff_arrays(cast(list[Any], before), after, path)
    return [{"op": "replace", "path": path, "value": after}]


def _diff_objects(before: dict[str, Any], after: dict[str, Any], path: str) -> Patch:
    patch: Patch = [{"op": "remove", "path": _join(path, key)} for key in before if key not in after]
    for key, value in after.items():
        if key not in before:
            patch.append({"op": "add", "path": _join(path, key), "value": value})
        else:
            patch += diff(before[key], value, _join(path, key))
    return patch


def _diff_arrays(before: list[Any], after: list[Any], path: str) -> Patch:
    """Leaves out what both ends share, pairs up the middle, then removes or adds the rest."""
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and _same(before[start], after[start]):
        start += 1
    end = 0
    while end < shorter - start and _same(before[-1 - end], after[-1 - end]):
        end += 1
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    paired = min(len(old), len(new))
    patch: Patch = []
    for offset in range(paired):
        patch += diff(old[offset], new[offset], f"{path}/{start + offset}")
    for offset in reversed(range(paired, len(old))):
        patch.append({"op": "remove", "path": f"{path}/{start + offset}"})
    for offset in range(paired, len(new)):
        patch.append({"op": "add", "path": f"{path}/{start + offset}", "value": new[offset]})
    return patch


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it, where `true` is not 1 and 1 is not 1.0; False where only the order differs.

    NaN, which JSON does not have, is the same as NaN. Python's own equality, and its plainest serialisation
    to tell the types apart: both run in C.
    """
    equal = bool(one == other or (one != one and other != other))
    return equal and marshal.dumps(one, 0) == marshal.dumps(other, 0)


def _join(path: str, key: str) -> str:
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
