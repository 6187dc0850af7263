"""The command `kumite` in the process of the tests."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str


def run_here(capture: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """The command `kumite` in this process, which has imported already what takes another one seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kumite", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        capture.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    said = capture.readouterr()
    return Ended(code, said.out + said.err)
