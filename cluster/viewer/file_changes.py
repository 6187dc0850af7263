"""What an episode changed in the files of its workspace, as unified diffs."""

import difflib
from typing import Any, cast

_MAX_LINES = 4_000
"""Lines of all diffs of an answer together."""
_CONTEXT_LINES = 3


def has_files(state: Any) -> bool:
    """Whether a state is a workspace: `files`, each with its `kind`, as the shell's toolset tells it."""
    if not isinstance(state, dict):
        return False
    files: Any = cast(dict[str, Any], state).get("files")
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and "kind" in entry for entry in cast(dict[str, Any], files).values()
    )


def diff_files(before: Any, after: Any) -> list[dict[str, Any]]:
    """The files that differ between two states of a workspace, by path.

    Args:
        before: The earlier state.
        after: The later one.

    Returns:
        Of each file: `path`, `change` (`added`, `removed`, `changed`), both sizes in bytes (null where there
        is no file), `lines` and `left_out`. Each line is a pair of a sign (`+`, `-`, ` `, `@`) and a text.
        `lines` is null where a state has no text of the file, because the file is large or binary.
    """
    old: dict[str, Any] = before["files"] if has_files(before) else {}
    new: dict[str, Any] = after["files"] if has_files(after) else {}
    found: list[dict[str, Any]] = []
    room = _MAX_LINES
    for path in sorted(old.keys() | new.keys()):
        first, second = old.get(path), new.get(path)
        if first == second or any(one and one["kind"] == "folder" for one in (first, second)):
            continue
        lines = _diff_lines(first, second)
        shown = None if lines is None else lines[:room]
        room -= len(shown or [])
        found.append(
            {
                "path": path,
                "change": "added" if first is None else "removed" if second is None else "changed",
                "size_before": (first or {}).get("size"),
                "size_after": (second or {}).get("size"),
                "lines": shown,
                "left_out": len(lines or []) - len(shown or []),
            }
        )
    return found


def _split_lines(text: str) -> list[str]:
    """A text's lines; a last one that nothing ends says so, as `diff` has it."""
    if not text:
        return []
    *lines, last = text.split("\n")
    return [*lines, f"{last} (no newline at the end)"] if last else lines


def _diff_lines(first: dict[str, Any] | None, second: dict[str, Any] | None) -> list[list[str]] | None:
    texts = [entry.get("text") if entry else "" for entry in (first, second)]
    if None in texts:
        return None
    before, after = (_split_lines(str(text)) for text in texts)
    lines = list(difflib.unified_diff(before, after, n=_CONTEXT_LINES, lineterm=""))[2:]
    return [["@", line] if line.startswith("@@") else [line[0], line[1:]] for line in lines]
