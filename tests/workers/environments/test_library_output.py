"""What libraries draw on the terminal while an environment is loaded is not drawn."""

import subprocess
import sys

import pytest

BARS = """
import sys
from workers.environments.library_output import log_library_output

def draw():
    import datasets
    datasets.Dataset.from_dict({"number": [1, 2]}).map(lambda row: row)

if IMPORTED_BEFORE:
    import datasets
with log_library_output():
    pass
assert ("datasets" in sys.modules) == IMPORTED_BEFORE
with log_library_output():
    draw()
print("drawn now", file=sys.stderr)
draw()
"""


@pytest.mark.parametrize("imported_before", [False, True])
def test_bars_of_datasets_are_drawn_afterwards_only(imported_before: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARS.replace("IMPORTED_BEFORE", str(imported_before))],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    before, _, after = done.stderr.partition("drawn now")
    assert before == ""
    assert "Map: 100%" in after
