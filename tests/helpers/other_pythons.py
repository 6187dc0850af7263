"""Interpreters that have a library which the project's own environment need not have."""

import os
import subprocess
import sys

import pytest

VARIABLE = "KUMITE_TEST_PYTHONS"
"""Names more interpreters, joined by `:`; an environment of its own is made by
`uv venv x && uv pip install --python x/bin/python inspect-ai`."""


def read_with(module: str, program: str, *arguments: str) -> str:
    """What a program prints, run by the first interpreter that has a module; skips where none has it."""
    for python in [sys.executable, *filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))]:
        probe = [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"]
        if subprocess.run(probe, check=False, timeout=60).returncode == 0:
            command = [python, "-c", program, *arguments]
            run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert run.returncode == 0, run.stderr[-3000:]
            return run.stdout
    pytest.skip(f"no interpreter has {module}: install it, or name one that has it in {VARIABLE}")
