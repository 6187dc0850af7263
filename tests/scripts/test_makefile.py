"""The targets of the Makefile that need no set-up."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
KUMITE = """\
#!/bin/sh
echo "$@" >> asked
test -d .venv && echo "{said}"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout of nothing but the Makefile."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    return tmp_path


def clean(copy: Path) -> str:
    done = subprocess.run(
        ["make", "-s", "clean"], cwd=copy, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("said", "shown"), [("ended", "ended\n"), ("no policy is kept", "")])
def test_clean_ends_a_kept_policy_before_what_could_end_it_is_gone(copy: Path, said: str, shown: str) -> None:
    command = copy / ".venv" / "bin" / "kumite"
    command.parent.mkdir(parents=True)
    command.write_text(KUMITE.format(said=said))
    command.chmod(0o755)
    assert clean(copy) == shown
    assert (copy / "asked").read_text() == "policy down\n"
    assert not (copy / ".venv").exists()


def test_clean_of_a_clean_checkout_says_nothing(copy: Path) -> None:
    assert clean(copy) == ""


def test_help_lists_every_target(copy: Path) -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", (copy / "Makefile").read_text(), re.MULTILINE)
    done = subprocess.run(["make", "help"], cwd=copy, capture_output=True, text=True, timeout=60, check=True)
    assert set(re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)) == set(phony.split())


def test_folders_that_the_fast_tests_pass_over_have_none_of_them() -> None:
    [folders] = re.findall(r"--ignore=tests/,([a-z0-9 ]+)\)", (PROJECT / "Makefile").read_text())
    modules = [path for name in folders.split() for path in (PROJECT / "tests" / name).glob("test_*.py")]
    marked = re.compile(r"^pytestmark .*\bmark\.(slow|docker|vllm|ray|faults|parity)\b", re.MULTILINE)
    assert len(modules) > 20
    assert [path.name for path in modules if not marked.search(path.read_text())] == []
