"""Where an author's own code is told from libraries."""

import sys
from pathlib import Path

import pytest

from workers import tracebacks
from workers.environments.opening import open_environment
from workers.settings import EnvironmentSettings

GRADES = """
import json

def grade(text):
    return json.loads(text)
"""
ENVIRONMENT = """
import verifiers as vf
from datasets import Dataset
from installed_environment.grades import grade

def load_environment():
    rows = Dataset.from_list([{"question": "a", "answer": "b"}])
    return vf.SingleTurnEnv(eval_dataset=rows, rubric=vf.Rubric(funcs=[grade]))
"""


def test_an_environment_among_the_libraries_is_its_authors_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is where `pip install` puts the environments that are shared."""
    package = tmp_path / "installed_environment"
    package.mkdir()
    (package / "__init__.py").write_text(ENVIRONMENT)
    (package / "grades.py").write_text(GRADES)
    monkeypatch.setattr(tracebacks, "_LIBRARIES", (*tracebacks._LIBRARIES, f"{tmp_path}/"))
    monkeypatch.setattr(tracebacks, "_installed", set())
    monkeypatch.syspath_prepend(tmp_path)
    open_environment(EnvironmentSettings(id="installed-environment"))
    with pytest.raises(ValueError) as raised:
        sys.modules["installed_environment.grades"].grade("{")  # type: ignore[attr-defined]
    said = tracebacks.traceback_of(raised.value)
    assert said is not None and f'File "{package / "grades.py"}", line 5, in grade' in said
