"""Plain text for terminals of any width and for pipes: tables without lines, and indented paragraphs."""

import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

_MIN_COLUMN_WIDTH = 24
"""Characters that the last column of a table gets at least."""
_COLUMN_GAP = "  "
_ROW_INDENT = "    "
"""What a row's second line begins with."""


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
    """Prints paragraphs: wrapped with their indent on a terminal, as they are elsewhere.

    A word that is longer than a terminal's line, such as the id of a task, is not broken: it can be copied.
    """
    width = terminal_width(console)
    for line in lines:
        for part in _wrap_line(line, width):
            console.print(Text(part, style=line.style if width else ""), soft_wrap=True, highlight=False)


def render_table(
    columns: Mapping[str, Sequence[str]],
    width: int | None,
    right: Iterable[str] = (),
    is_last_whole: bool = False,
) -> list[str]:
    """A table of aligned columns, without any line drawn.

    All columns but the last are shown whole. What does not fit beside the columns before it goes on with the
    columns after it on a line under its row. The last one is cut to what is left of a terminal's width, of
    which it gets 24 characters or more. In a pipe a row is one line, and nothing is cut.

    Args:
        columns: The cells of each column, by its name.
        width: The terminal's columns; None: nothing is cut.
        right: Names of the columns that are aligned to the right.
        is_last_whole: Whether the last column is shown whole, too.
    """
    last = list(columns)[-1]
    shown = {name: [_join_lines(cell) for cell in cells] for name, cells in columns.items()}
    widths = {name: max([cell_width(name), *map(cell_width, shown[name])]) for name in columns}
    needed = {**widths, last: widths[last] if is_last_whole else min(widths[last], _MIN_COLUMN_WIDTH)}
    numbers = set(right)
    layout = _split_columns(needed, width)
    rows = [{name: name for name in columns}]
    rows += [dict(zip(columns, row, strict=True)) for row in zip(*shown.values(), strict=True)]
    lines: list[str] = []
    for row in rows:
        for place, names in enumerate(layout):
            indent = "" if place == 0 else _ROW_INDENT
            cells = [_pad(row[name], widths[name], name in numbers) for name in names if name != last]
            line = indent + "".join(cell + _COLUMN_GAP for cell in cells)
            if last in names:
                tail = row[last]
                if width is not None and not is_last_whole:
                    tail = _truncate(tail, max(1, width - cell_width(line)))
                line += _pad(tail, widths[last], True) if last in numbers and place == 0 else tail
            lines.append(line.rstrip())
    return lines


def _split_columns(needed: Mapping[str, int], width: int | None) -> list[list[str]]:
    """Splits a table's columns into the lines that each row takes.

    Args:
        needed: The columns that each needs, by its name.
        width: Those of the terminal; None: there is one line.
    """
    lines: list[list[str]] = [[]]
    used = 0
    for name, room in needed.items():
        if width is not None and lines[-1] and used + room > width:
            lines.append([])
            used = len(_ROW_INDENT)
        lines[-1].append(name)
        used += room + len(_COLUMN_GAP)
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
            part,
            room,
            subsequent_indent=own,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
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
