"""The file tools: what they answer for the policy to read."""

from collections.abc import Iterator
from itertools import islice

from sandbox_images.shell.workspace import Entry, FileError, Workspace

_MAX_ENTRIES = 500


class FileTools:
    """Reads, writes and lists files of a workspace.

    Args:
        workspace: Where.
        output_cap: Most bytes of an answer.
    """

    def __init__(self, workspace: Workspace, output_cap: int) -> None:
        self._workspace = workspace
        self._output_cap = output_cap

    def read_file(self, path: str, start: int = 1, lines: int | None = None) -> str:
        """Lines of a file, as many as fit, and which they are when they are not all."""
        all_text = self._workspace.read_text(path)
        count = all_text.count("\n") + (all_text != "" and not all_text.endswith("\n"))
        if start < 1 or (lines is not None and lines < 1):
            raise FileError(f"start and lines count from 1, got start {start} and lines {lines}")
        if start > max(1, count):
            raise FileError(f"{path} has {count:,} lines, none at {start:,}")
        last = count if lines is None else min(count, start - 1 + lines)
        shown: list[str] = []
        room = self._output_cap
        for line in islice(_iterate_lines(all_text), start - 1, last):
            room -= len(line.encode())
            if room < 0 and not shown:
                return f"{_truncate(line, self._output_cap)}\n[line {start:,} is too long to be shown whole]"
            if room < 0:
                break
            shown.append(line)
        text = "".join(shown)
        if len(shown) == count:
            return text or "[the file is empty]"
        gap = "" if text.endswith("\n") else "\n"
        return f"{text}{gap}[lines {start:,} to {start + len(shown) - 1:,} of {count:,}]"

    def write_file(self, path: str, content: str) -> str:
        """Puts a text into a file."""
        encoded = content.encode()
        self._workspace.write_bytes(path, encoded)
        return f"wrote {len(encoded):,} bytes to {path}"

    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replaces a text that occurs in the file once."""
        if not old:
            raise FileError("old is empty; it must be a text that occurs in the file exactly once")
        text = self._workspace.read_text(path)
        count = text.count(old)
        if count != 1:
            raise FileError(f"old occurs {count:,} times in {path}; it must occur exactly once")
        line = text[: text.index(old)].count("\n") + 1
        self._workspace.write_bytes(path, text.replace(old, new).encode())
        return f"edited {path} at line {line:,}"

    def list_files(self, path: str = ".") -> str:
        """What is below a folder, one entry a line."""
        shown: list[str] = []
        for entry in self._workspace.entries(path):
            if len(shown) == _MAX_ENTRIES:
                shown.append(f"[there are more; these are the first {_MAX_ENTRIES}]")
                break
            shown.append(_entry_line(entry))
        return _truncate("\n".join(shown), self._output_cap) or "[the folder is empty]"


def _iterate_lines(text: str) -> Iterator[str]:
    """Its lines, one at a time: all of them at once can take many times the memory of the text."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _entry_line(entry: Entry) -> str:
    path = entry.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    match entry.kind:
        case "folder":
            return f"{path}/"
        case "file":
            return f"{path}  {entry.size:,} bytes"
        case "link":
            return f"{path}  symbolic link"
        case "other":
            return f"{path}  no regular file"


def _truncate(text: str, cap: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= cap else encoded[:cap].decode("utf-8", "ignore") + "…"
