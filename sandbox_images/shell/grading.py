"""Hidden tests: functions `test_*` of a source text, each given the subject to examine."""

import traceback
from pathlib import Path
from typing import Any

from sandbox_images.shell.subject import Subject, SubmissionFailed
from sandbox_images.tool_host.toolset import Scores, ToolsetError

_SOURCE = "<hidden tests>"
_OURS = str(Path(__file__).parent)


def grade(source: str, subject: Subject) -> Scores:
    """Runs the tests in this process: their text is never where a submission could read it.

    Args:
        source: Python source with functions `test_*`, each taking the subject.
        subject: What they examine.

    Returns:
        `solved`, 1 if all tests passed and else 0, and `tests_passed`, the fraction that did. Of each test
        that failed, the details say where.

    Raises:
        ToolsetError: The source is none, or has no test in it.
        Exception: The examination itself fails, which is no failure of the submission.
    """
    names: dict[str, Any] = {"__name__": "hidden_tests"}
    try:
        exec(compile(source, _SOURCE, "exec"), names)
    except Exception as error:
        raise ToolsetError(f"the hidden tests do not load: {type(error).__name__}: {error}") from error
    tests = {name: test for name, test in names.items() if name.startswith("test_") and callable(test)}
    if not tests:
        raise ToolsetError("the hidden tests are none")
    failures: dict[str, str] = {}
    for name, test in tests.items():
        try:
            test(subject)
        except SubmissionFailed as error:
            failures[name] = _worded(error)
        except Exception as error:
            if any(frame.filename.startswith(_OURS) for frame in _frames(error)):
                raise
            failures[name] = _worded(error)  # whatever a submission's answers make a test raise
    passed = 1 - len(failures) / len(tests)
    return Scores(
        {"solved": float(not failures), "tests_passed": passed}, {"tests": len(tests), "failures": failures}
    )


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """Where the error went through, from the test on."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next(place for place, frame in enumerate(frames) if frame.filename == _SOURCE)
    return frames[first:]


def _worded(error: Exception) -> str:
    line = next(frame.lineno for frame in reversed(_frames(error)) if frame.filename == _SOURCE)
    return f"line {line}: {type(error).__name__}: {error!s:.300}"
