"""The code blocks of the README and of docs/ that a reader follows, by the task that they belong to.

`<!-- task: NAME -->` before a block says so. A block whose first line is a comment with a file's name is that
file; the others are commands and programs.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^<!-- task: (?P<task>[\w-]+) -->\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_NAME = re.compile(r"# ((?:[\w-]+/)*[\w-]+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str
    file: str | None
    """The file that it is, relative to the reader's folder; None for a command or a program."""


def blocks_by_task() -> dict[str, list[Block]]:
    """The blocks of each task, in the order of its page."""
    found: dict[str, list[Block]] = {}
    for page in PAGES:
        text = page.read_text()
        marked = list(_BLOCK.finditer(text))
        assert len(marked) == text.count("<!-- task:"), f"{page.name}: a marker stands before no block"
        for block in marked:
            name = _NAME.match(block["text"])
            made = Block(page.name, block["language"], block["text"], name and name[1])
            found.setdefault(block["task"], []).append(made)
    return found
