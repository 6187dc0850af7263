"""An environment's state as a tree in which what a step changed is marked."""

import json
from pathlib import Path
from typing import Any, cast

from cluster.dataset.arrow import pc, pq
from cluster.dataset.manifest import load_manifest
from cluster.dataset.shards import naming_file
from workers.records import EpisodeRecord
from workers.state_patches import apply_state_patch

Node = dict[str, Any]
"""`{"same": value}`, `{"added": value}`, `{"removed": value}`, `{"from": old, "to": new}`, or, of what holds
a change, `{"object": [[key, node], …]}` or `{"array": [[index, node], …]}`."""


def load_base_state(run_dir: Path, state_id: str) -> Any:
    """A base state of a run; None if the run does not hold it."""
    for name in load_manifest(run_dir).states:
        path = run_dir / name
        with naming_file(path):
            table = pq.read_table(path)
        place = pc.index(table["state_id"], state_id).as_py()
        if place >= 0:
            return json.loads(table["state"][place].as_py())
    return None


class StateHistory:
    """The environment's state after each step of an episode; one state is held, and moved on as it is asked.

    Args:
        base: The base state.
        episode: The episode.
    """

    def __init__(self, base: Any, episode: EpisodeRecord) -> None:
        self.base = base
        self.initial = apply_state_patch(base, episode.initial_state_patch)
        self._patches = [step.state_patch for step in episode.steps]
        self._at, self._state = -1, self.initial

    def after(self, step: int) -> Any:
        """The state after so many steps' calls, from 0; -1: the one in which the episode began."""
        if step < self._at:
            self._at, self._state = -1, self.initial
        while self._at < min(step, len(self._patches) - 1):
            self._at += 1
            self._state = apply_state_patch(self._state, self._patches[self._at])
        return self._state

    def tree(self, step: int) -> Node:
        """The state after a step, with what the step changed marked; of -1, with what the task changed."""
        before = self.base if step < 0 else self.after(step - 1)
        return diff_tree(before, self.after(step))


def diff_tree(before: Any, after: Any) -> Node:
    """The state `after` as a tree with marks where it differs from `before`.

    Lists are compared after what they have in common at both ends, so that one that lost or got elements
    marks only these.
    """
    if _is_equal_json(before, after):
        return {"same": after}
    if isinstance(before, dict) and isinstance(after, dict):
        return {"object": _diff_objects(cast(dict[str, Any], before), cast(dict[str, Any], after))}
    if isinstance(before, list) and isinstance(after, list):
        return {"array": _diff_lists(cast(list[Any], before), cast(list[Any], after))}
    return {"from": before, "to": after}


def _diff_objects(before: dict[str, Any], after: dict[str, Any]) -> list[list[Any]]:
    found: list[list[Any]] = []
    for key, value in after.items():
        found.append([key, diff_tree(before[key], value) if key in before else {"added": value}])
    found += [[key, {"removed": value}] for key, value in before.items() if key not in after]
    return found


def _diff_lists(before: list[Any], after: list[Any]) -> list[list[Any]]:
    start, shorter = 0, min(len(before), len(after))
    while start < shorter and _is_equal_json(before[start], after[start]):
        start += 1
    end = 0
    while end < shorter - start and _is_equal_json(before[-1 - end], after[-1 - end]):
        end += 1
    found: list[list[Any]] = [[place, {"same": after[place]}] for place in range(start)]
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    for place in range(max(len(old), len(new))):
        if place >= len(old):
            found.append([start + place, {"added": new[place]}])
        elif place >= len(new):
            found.append([start + place, {"removed": old[place]}])
        else:
            found.append([start + place, diff_tree(old[place], new[place])])
    found += [[place, {"same": after[place]}] for place in range(len(after) - end, len(after))]
    return found


def _is_equal_json(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: in Python, `True == 1`."""
    if one != other or isinstance(one, bool) is not isinstance(other, bool):
        return False
    if isinstance(one, dict):
        others = cast(dict[str, Any], other)
        return all(_is_equal_json(value, others[key]) for key, value in cast(dict[str, Any], one).items())
    if isinstance(one, list):
        return all(map(_is_equal_json, cast(list[Any], one), cast(list[Any], other)))
    return True
