"""`make test` plays the few tests that fail beside others once more, alone, and says which those were."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
MODULE = """\
from pathlib import Path

import pytest

SEEN = Path(__file__).with_name("seen")


@pytest.mark.xdist_group("a group")
@pytest.mark.parametrize("way", ["a::b", "c@d"])
def test_fails_once(way):
    with SEEN.open("a") as seen:
        seen.write(way + "\\n")
    assert SEEN.read_text().splitlines().count(way) > 1


@pytest.mark.parametrize("number", range({always}))
def test_fails_always(number):
    assert number < 0
"""


def played(folder: Path, always: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`scripts/all_tests.py` with a module of two tests that pass the second time, and some that never do."""
    (folder / "test_races.py").write_text(MODULE.format(always=always))
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p xdist\n")
    command = [sys.executable, "-m", "scripts.all_tests", *arguments]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("processes", [[], ["-n", "2", "--dist", "loadgroup"]])
def test_a_test_that_passes_alone_is_listed_and_fails_nothing(tmp_path: Path, processes: list[str]) -> None:
    done = played(tmp_path, 0, *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = done.stdout.split("Look for the race:\n")[1].splitlines()
    assert sorted(line.rsplit("::test_", 1)[1] for line in listed) == ["fails_once[a::b]", "fails_once[c@d]"]


def test_a_test_that_fails_alone_fails_the_run(tmp_path: Path) -> None:
    done = played(tmp_path, 1)
    assert done.returncode == 1
    assert "Played again, alone: 3 failed" in done.stdout
    assert "Look for the race" not in done.stdout


def test_of_many_failures_none_is_played_again(tmp_path: Path) -> None:
    done = played(tmp_path, 2)
    assert done.returncode == 1
    assert "Played again" not in done.stdout


def test_a_module_that_cannot_be_read_is_no_race(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    done = played(tmp_path, 0, "--continue-on-collection-errors")
    assert done.returncode == 1
    assert "Played again" not in done.stdout
