"""How often a run's policy called each tool, and how often that was an error."""

from collections import Counter
from typing import Any

from cluster.dataset.arrow import pc
from cluster.viewer.episode_index import EpisodeIndex

_MAX_TOOLS = 60


def count_tool_calls(index: EpisodeIndex) -> list[dict[str, Any]]:
    """The tools that a run's policy called, the most used first.

    Args:
        index: The run's.

    Returns:
        Of each tool: `name`, `calls`, `episodes` with a call of it, and `errors`; null where the environment
        does not tell errors.
    """
    calls, errors, told = Counter[str](), Counter[str](), Counter[str]()
    episodes: Counter[str] = Counter()
    for part in index.parts():
        seen: set[tuple[str, str]] = set()
        for table in index.step_columns(part, ("episode_id", "action", "tool_errors")):
            made = pc.struct_field(table["action"].combine_chunks(), "tool_calls")
            rows: list[list[dict[str, Any]] | None] = made.to_pylist()
            ids, failures = table["episode_id"].to_pylist(), table["tool_errors"].to_pylist()
            for episode_id, own, failed in zip(ids, rows, failures, strict=True):
                for place, call in enumerate(own or []):
                    name = call["function"]["name"]
                    calls[name] += 1
                    seen.add((name, episode_id))
                    if failed is not None and place < len(failed):
                        told[name] += 1
                        errors[name] += failed[place]
        episodes.update(name for name, _ in seen)
    return [
        {
            "name": name,
            "calls": count,
            "episodes": episodes[name],
            "errors": errors[name] if told[name] else None,
        }
        for name, count in calls.most_common(_MAX_TOOLS)
    ]
