"""A program that is forked is to who started it as one that was started."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.program_forks import fork_programs
from tests.helpers.sandboxes import eventually, is_alive

pytestmark = pytest.mark.slow
IMPORTED = "xml.dom.minidom"
"""A module that nothing imports by itself."""


@pytest.fixture(scope="module")
def python() -> Iterator[list[str]]:
    with fork_programs(sys.executable, [IMPORTED, "not.there"], os.environ) as python:
        yield python


@pytest.fixture
def start(python: list[str], tmp_path: Path):
    def start(code: str, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        (tmp_path / "program.py").write_text(code)
        return subprocess.Popen(
            [*python, str(tmp_path / "program.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_it_has_what_the_process_was_given_and_the_imports(start, tmp_path: Path) -> None:
    code = f"""
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["OF_ITS_OWN"], sys.stdin.read(), "{IMPORTED}" in sys.modules)
print("to be read", file=sys.stderr)
sys.exit(3)
"""
    process = start(code, "one", "two", OF_ITS_OWN="own")
    output, errors = process.communicate("said", timeout=60)
    assert output == f"['one', 'two'] {tmp_path} own said True\n"
    assert errors == "to be read\n"
    assert process.returncode == 3


def test_a_module_is_run_as_by_the_interpreter(python: list[str]) -> None:
    done = subprocess.run(
        [*python, "-m", "json.tool"], input="[1]", capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[\n    1\n]\n"


def test_an_error_and_a_signal_are_told(start) -> None:
    failed = start("raise ValueError('of its own')")
    _, errors = failed.communicate(timeout=60)
    assert failed.returncode == 1
    assert errors.endswith("ValueError: of its own\n")
    killed = start("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL


def test_sigterm_reaches_it_and_it_ends_with_who_started_it(start) -> None:
    waits = "print(os.getpid(), flush=True); time.sleep(600)"
    heeding = start(f"import os, signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); {waits}")
    heeding.stdout.readline()
    heeding.terminate()
    heeding.communicate(timeout=60)
    assert heeding.returncode == 7
    forgotten = start(f"import os, time; {waits}")
    pid = int(forgotten.stdout.readline())
    forgotten.kill()
    forgotten.communicate(timeout=60)
    asyncio.run(eventually(lambda: not is_alive(pid)))
