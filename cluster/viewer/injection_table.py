"""Which injections of a run succeed, and where they stood in what the policy read."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import jsonpointer

from cluster.dataset.arrow import pc
from cluster.observe.intervals import estimate_mean
from cluster.viewer.episode_index import EpisodeIndex
from cluster.viewer.injections import find_spans, inserted_texts
from cluster.viewer.state_tree import load_base_state

_MAX_EPISODES = 5_000
"""Episodes that are looked through."""
_COLUMNS = (
    "episode_id",
    "task_id",
    "suite",
    "injection_task",
    "attack",
    "status",
    "metrics",
    "messages",
    "initial_state_id",
    "initial_state_patch",
)
_PLACES = ("beginning", "middle", "end")


@dataclass(frozen=True)
class Exposure:
    """How an episode's policy met the injection."""

    task_id: str
    suite: str
    injection_task: str
    attack_success: float
    tool: str | None
    """The tool in whose result the policy first read it. None: it did not."""
    place: str | None
    """The third of that result in which the middle of the injected text stood."""


def describe_injections(index: EpisodeIndex) -> dict[str, Any]:
    """The injection tasks of a run, the one that succeeds most first.

    Args:
        index: The run's.

    Returns:
        `rows`, one per suite and injection task: `episodes`, `success` (a mean with its interval), `read`
        (the share of episodes whose policy read it), `tools` (how often it stood in whose result) and
        `places` (for each third of a result: episodes, and the share of them in which the attack succeeded).
        `looked_through` counts the episodes.
    """
    groups: defaultdict[tuple[str, str], list[Exposure]] = defaultdict(list)
    count = 0
    for exposure in _find_exposures(index):
        groups[exposure.suite, exposure.injection_task].append(exposure)
        count += 1
        if count == _MAX_EPISODES:
            break
    rows = [_describe_group(suite, task, found) for (suite, task), found in groups.items()]
    rows.sort(key=lambda row: (-row["success"]["value"], row["suite"], row["injection_task"]))
    return {"rows": rows, "looked_through": count}


def _describe_group(suite: str, injection_task: str, found: list[Exposure]) -> dict[str, Any]:
    success = estimate_mean([one.attack_success for one in found], [one.task_id for one in found])
    assert success is not None
    places: dict[str, Any] = {}
    for name in _PLACES:
        own = [one.attack_success for one in found if one.place == name]
        places[name] = {"episodes": len(own), "success": sum(own) / len(own) if own else None}
    return {
        "suite": suite,
        "injection_task": injection_task,
        "episodes": len(found),
        "success": success.model_dump(),
        "read": sum(one.tool is not None for one in found) / len(found),
        "tools": Counter(one.tool for one in found if one.tool is not None).most_common(3),
        "places": places,
    }


def _find_exposures(index: EpisodeIndex) -> Iterator[Exposure]:
    states: dict[str, Any] = {}
    for part in index.parts():
        if part.rows["attack"].null_count == part.rows.num_rows:
            continue
        for table in index.columns(part, _COLUMNS):
            attacked = pc.and_(pc.is_valid(table["attack"]), pc.equal(table["status"], "finished"))
            rows: list[dict[str, Any]] = table.filter(attacked).to_pylist()
            for row in rows:
                success = json.loads(row["metrics"]).get("attack_success")
                if success is None or row["injection_task"] is None:
                    continue
                state_id = row["initial_state_id"]
                if state_id is not None and state_id not in states:
                    states[state_id] = load_base_state(index.folder, state_id)
                injected = _read_injected(states.get(state_id or ""), row["initial_state_patch"])
                tool, place = _first_place(row["messages"], injected)
                yield Exposure(
                    row["task_id"], row["suite"] or "", row["injection_task"], float(success), tool, place
                )


def _read_injected(base: Any, patch: str | None) -> list[str]:
    """What a patch of the base state put there; without applying it, since a run has thousands."""
    pairs: list[tuple[Any, Any]] = []
    for operation in cast(list[dict[str, Any]], json.loads(patch or "[]")):
        before = jsonpointer.resolve_pointer(base, operation["path"], None)
        pairs.append((before, operation.get("value")))
    return inserted_texts(pairs)


def _first_place(messages: list[dict[str, Any]], injected: list[str]) -> tuple[str | None, str | None]:
    """The tool whose result had an injected text first, and the third of the result in which it stood."""
    names: dict[str, str] = {}
    for message in messages:
        calls: list[dict[str, Any]] = message["tool_calls"] or []
        for call in calls:
            names[call["id"]] = call["function"]["name"]
        text = message["content"]
        if message["role"] != "tool" or not text:
            continue
        spans = find_spans(text, injected)
        if spans:
            start, end = spans[0]
            third = min(2, int(3 * (start + end) / 2 / len(text)))
            return names.get(message["tool_call_id"] or "", "a tool"), _PLACES[third]
    return None, None
