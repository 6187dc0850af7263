"""Plain text for terminals of any width and for pipes: tables without lines, and indented paragraphs."""

import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

_MIN_COLUMN_WIDTH = 24
"""Characters that the last column of a table needs, to stand beside the others; else it gets its own line."""
_COLUMN_GAP = "  "


@dataclass(frozen=True)
class Line:
    """A paragraph of what is printed."""

    text: str
    """What it says; line breaks stay."""
    indent: int = 0
    """Spaces before each of its lines."""
    style: str = ""
    """rich's style of it, for terminals."""


def terminal_width(console: Console) -> int | None:
    """Returns the columns of a terminal; None for a pipe or a file, where nothing is cut or wrapped."""
    return console.width if console.is_terminal else None


def print_lines(console: Console, lines: Iterable[Line]) -> None:
    """Prints paragraphs: wrapped with their indent on a terminal, as they are elsewhere."""
    width = terminal_width(console)
    for line in lines:
        for part in _wrap_line(line, width):
            console.print(Text(part, style=line.style if width else ""), soft_wrap=True, highlight=False)


def render_table(
    columns: Mapping[str, Sequence[str]], width: int | None, right: Iterable[str] = ()
) -> list[str]:
    """A table of aligned columns, without any line drawn.

    All columns but the last are shown whole. The last one is cut to what is left of a terminal's width; where
    that is less than 24 characters, it stands on a line of its own under its row. In a pipe nothing is cut.

    Args:
        columns: The cells of each column, by its name.
        width: The terminal's columns; None: nothing is cut.
        right: Names of the columns that are aligned to the right.
    """
    names = list(columns)
    last = names[-1]
    shown = {name: [_join_lines(cell) for cell in cells] for name, cells in columns.items()}
    widths = {name: max([cell_width(name), *map(cell_width, shown[name])]) for name in names}
    numbers = set(right)
    before = sum(widths[name] + len(_COLUMN_GAP) for name in names[:-1])
    needed = min(widths[last], _MIN_COLUMN_WIDTH)
    is_below = width is not None and len(names) > 1 and before + needed > width
    # Where not even the columns before the last one fit, only the first keeps its place.
    beside = 1 if width is not None and before > width else len(names) - 1
    under = sum(widths[name] + len(_COLUMN_GAP) for name in names[beside:-1])
    room = None if width is None else max(1, width - (4 + under if is_below else before))
    rows = [{name: name for name in names}]
    rows += [dict(zip(names, row, strict=True)) for row in zip(*shown.values(), strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = [_pad(row[name], widths[name], name in numbers) for name in names[:-1]]
        tail = row[last] if last not in numbers or is_below else _pad(row[last], widths[last], True)
        tail = tail if room is None else _truncate(tail, room)
        if is_below:
            below = _COLUMN_GAP.join([*cells[beside:], tail])
            lines += [_COLUMN_GAP.join(cells[:beside]).rstrip(), f"    {below}".rstrip()]
        else:
            lines.append(_COLUMN_GAP.join([*cells, tail]).rstrip())
    return lines


def cell_width(text: str) -> int:
    """Counts the columns that a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def escape_invisible(text: str) -> str:
    """Escapes what cannot be seen in a text:  control characters, and white space that is alone."""
    if text and not text.strip():
        text = text.replace(" ", "·").replace("\t", "→").replace("\n", "⏎\n").removesuffix("\n")
    return "".join(
        each
        if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


def wide_console(*, stderr: bool = False) -> Console:
    """A console that uses a terminal's width; in a pipe it is so wide that no table is cut."""
    stream = sys.stderr if stderr else sys.stdout
    console = Console(stderr=stderr)
    if not stream.isatty() and not console.is_terminal:
        console = Console(stderr=stderr, width=200)
    return console


def _wrap_line(line: Line, width: int | None) -> list[str]:
    indent = " " * line.indent
    parts: list[str] = []
    for part in line.text.split("\n"):
        if width is None or cell_width(part) + line.indent <= width:
            parts.append(f"{indent}{part}".rstrip())
            continue
        room = max(16, width - line.indent)
        own = " " * min(len(part) - len(part.lstrip()), room // 2)
        wrapped = textwrap.wrap(
            part, room, subsequent_indent=own, replace_whitespace=False, break_on_hyphens=False
        )
        parts += [f"{indent}{each}" for each in wrapped]
    return parts


def _join_lines(text: str) -> str:
    return escape_invisible(" ".join(text.split()))


def _pad(text: str, width: int, right: bool) -> str:
    blanks = " " * (width - cell_width(text))
    return f"{blanks}{text}" if right else f"{text}{blanks}"


def _truncate(text: str, room: int) -> str:
    if cell_width(text) <= room:
        return text
    while text and cell_width(text) > room - 1:
        text = text[:-1]
    return f"{text}…"
