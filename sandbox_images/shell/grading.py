"""Hidden tests: functions `test_*` of a source text, each given the subject to examine."""

from typing import Any

from sandbox_images.shell.subject import Subject
from sandbox_images.tool_host.toolset import Scores, ToolsetError

_SOURCE = "<hidden tests>"


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
        except TimeoutError:  # the session's processes can't be killed: no fault of the test's subject alone
            raise
        except Exception as error:  # noqa: BLE001 - whatever a submission's answers make a test raise
            failures[name] = _where(error)
    passed = 1 - len(failures) / len(tests)
    return Scores(
        {"solved": float(not failures), "tests_passed": passed}, {"tests": len(tests), "failures": failures}
    )


def _where(error: Exception) -> str:
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == _SOURCE:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f"line {line}: {type(error).__name__}: {error!s:.300}"
